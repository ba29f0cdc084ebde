"""What a call of a small engine costs, by bridge's runtime and by torch_tensorrt's.

    python -m bridge.bench.overhead [--json FILE] [--rounds N]

The same engine, whose work takes a GPU a few microseconds, is called by every runtime in turn, round after round: on
the default stream and on another one, as it comes and as a CUDA graph. Two times are taken: `issue`, of a call when
the next follows without waiting for the GPU, and `latency`, of a call and the wait for its result. What a runtime of
torch_tensorrt does not do here is reported with the reason.
"""

import argparse
import datetime
import functools
import json
import logging
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import bridge
from bridge.base.text import columns
from bridge.engine.compiled import CompiledModule
from bridge.tensorrt.install.flavour import detect
from bridge.tensorrt.run import streams
from bridge.tensorrt.run.engine import Engine

_CALLS = 100  # of one runtime in a round, between two waits for the GPU


@dataclass(frozen=True)
class Row:
    """One way to call the engine. Times are microseconds a call: the median of the rounds, 10th and 90th percentile."""

    runtime: str
    stream: str
    issue: float | None = None
    issue_range: tuple[float, float] | None = None
    latency: float | None = None
    latency_range: tuple[float, float] | None = None
    reason: str | None = None


class Small(nn.Module):
    """A few operators on little data: what a call costs is then the runtime's."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """As many results as inputs, each [N, 64]."""
        return tuple(torch.ops.bridge.relu(self.linear(tensor), 0.1) for tensor in tensors)


Call = Callable[..., Any]


@dataclass(frozen=True)
class Way:
    """One way to call an engine.

    make: what makes it ready. global_graphs: torch_tensorrt's setting while it runs. foreign: it is not bridge's, and
    may end the process; a process of its own tries it first.
    """

    name: str
    make: Callable[[], Call]
    global_graphs: bool = False
    foreign: bool = False

    def select(self) -> None:
        """Before calls by this way."""
        detect().torch_tensorrt().runtime.set_cudagraphs_mode(self.global_graphs)


def ways(module: CompiledModule, eager: nn.Module, args: tuple[Tensor, ...]) -> list[Way]:
    """Every way to call the engine of a module."""

    def bridges(**settings: bool) -> Callable[[], Call]:
        return lambda: CompiledModule(module.file, **settings)

    found = [
        Way("PyTorch, eager", lambda: eager),
        Way("execute_async_v3 alone", lambda: _bare(module, args)),
        Way("bridge", bridges()),
        Way("bridge, static outputs", bridges(static_outputs=True)),
        Way("bridge, CUDA graph", bridges(cuda_graph=True)),
        Way("bridge, CUDA graph, static outputs", bridges(cuda_graph=True, static_outputs=True)),
    ]
    for language, kind in (("Python", "PythonTorchTensorRTModule"), ("C++", "TorchTensorRTModule")):
        for graph, what in ((False, ""), (True, ", CUDA graph")):
            make = functools.partial(_torch_tensorrt, kind, module)
            found.append(Way(f"torch_tensorrt, {language}{what}", make, graph, foreign=True))
    return found


def measure(inputs: int, rounds: int, broken: dict[str, str]) -> list[Row]:
    """Every way, on both streams; those of `broken` are listed with that reason."""
    eager, args, module = _engine(inputs)
    rows = []
    for name, stream in (("default", torch.cuda.default_stream()), ("other", torch.cuda.Stream())):
        calls: dict[Way, Call] = {}
        with torch.cuda.stream(stream):
            for way in ways(module, eager, args):
                call, reason = (None, broken[way.name]) if way.name in broken else _ready(way, eager, args)
                if call is None:
                    rows.append(Row(way.name, name, reason=reason))
                else:
                    calls[way] = call
            rows += _time(calls, name, args, rounds)
    return rows


def broken_ways() -> dict[str, str]:
    """The ways that end the process that tries them, and how."""
    found = {}
    eager, args, module = _engine(1)
    for way in ways(module, eager, args):
        if way.foreign:
            command = [sys.executable, "-m", "bridge.bench.overhead", "--try", way.name]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
            if done.returncode < 0:
                found[way.name] = f"it ends the process by {signal.Signals(-done.returncode).name}"
    return found


def _try(name: str) -> None:
    eager, args, module = _engine(1)
    for way in ways(module, eager, args):
        if way.name == name:
            _ready(way, eager, args)


def _engine(inputs: int) -> tuple[nn.Module, tuple[Tensor, ...], CompiledModule]:
    """A model, arguments for it, and its engine. EngineError: TensorRT does not run on this GPU."""
    torch.manual_seed(0)
    eager = Small().eval().half().cuda()
    args = tuple(torch.randn(4, 64, device="cuda", dtype=torch.half) for _ in range(inputs))
    return eager, args, bridge.compile(eager, args)


def _ready(way: Way, eager: nn.Module, args: tuple[Tensor, ...]) -> tuple[Call | None, str | None]:
    """What calls the engine, and computes what eager PyTorch does; or why it cannot be called here."""
    try:
        way.select()
        call = way.make()
        for _ in range(5):
            results = call(*args)
        torch.cuda.synchronize()
    except Exception as error:  # of any kind: torch_tensorrt's C++ runtime raises RuntimeError for all
        return None, f"{type(error).__name__}: {str(error).splitlines()[0]}"
    results = [results] if isinstance(results, Tensor) else results
    if results is not None:
        for result, expected in zip(results, eager(*args), strict=True):
            torch.testing.assert_close(result, expected, rtol=2e-2, atol=2e-2)
    return call, None


def _time(calls: dict[Way, Call], stream: str, args: tuple[Tensor, ...], rounds: int) -> list[Row]:
    issue: dict[Way, list[float]] = {way: [] for way in calls}
    latency: dict[Way, list[float]] = {way: [] for way in calls}
    current = torch.cuda.current_stream()
    for _ in range(rounds):
        for way, call in calls.items():
            way.select()
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(_CALLS):
                call(*args)
            issue[way].append((time.perf_counter() - start) / _CALLS * 1e6)
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(_CALLS):
                call(*args)
                current.synchronize()
            latency[way].append((time.perf_counter() - start) / _CALLS * 1e6)
    return [Row(way.name, stream, *_spread(issue[way]), *_spread(latency[way])) for way in calls]


def _spread(values: list[float]) -> tuple[float, tuple[float, float]]:
    tenths = statistics.quantiles(values, n=10)
    return round(statistics.median(values), 2), (round(tenths[0], 2), round(tenths[-1], 2))


def _bare(module: CompiledModule, args: tuple[Tensor, ...]) -> Call:
    """TensorRT's own call with nothing around it, into the same outputs each time: the floor of any runtime."""
    context = Engine(module.file).new_context(static_outputs=True)
    context(*args)
    device = args[0].device
    stream = streams.for_engines(device)

    def call(*_: Tensor) -> None:
        context.native.execute_async_v3(stream)

    return call


def _torch_tensorrt(kind: str, module: CompiledModule) -> Call:
    detect().torch_tensorrt()
    from torch_tensorrt.dynamo import runtime

    names = [spec.name for spec in module.inputs], [spec.name for spec in module.outputs]
    made = getattr(runtime, kind)(module.engine, *names, name="small")
    made.setup_engine()
    return made


def table(rows: list[Row]) -> str:
    """The rows as text."""
    lines: list[tuple[str, ...]] = [("runtime", "stream", "issue, µs", "10 to 90 %", "latency, µs", "10 to 90 %")]
    for row in rows:
        if row.reason is not None:
            lines.append((row.runtime, row.stream, f"not measured: {row.reason}", "", "", ""))
            continue
        cells = [f"{row.issue:.1f}", _range(row.issue_range), f"{row.latency:.1f}", _range(row.latency_range)]
        lines.append((row.runtime, row.stream, *cells))
    return columns(lines, indent=0)


def _range(values: tuple[float, float] | None) -> str:
    return f"{values[0]:.1f} to {values[1]:.1f}" if values is not None else ""


def describe() -> dict[str, Any]:
    """Where and with what the figures were taken."""
    flavour = detect()
    return {
        "gpu": torch.cuda.get_device_name(),
        "date": datetime.date.today().isoformat(),
        "bridge": bridge.__version__,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        flavour.name: flavour.version,
        "torch_tensorrt": flavour.torch_tensorrt_version,
    }


@torch.inference_mode()
def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bridge.bench.overhead", description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    parser.add_argument("--rounds", type=int, default=30, help="default: 30")
    parser.add_argument("--try", dest="name", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("there is no CUDA GPU here; what a call costs can only be measured on one")
    logging.getLogger("torch_tensorrt").setLevel(logging.ERROR)
    if options.name:
        _try(options.name)
        return
    broken = broken_ways()
    found = {f"{n} inputs, {n} outputs": measure(n, options.rounds, broken) for n in (1, 8)}
    where = describe()
    print(", ".join(f"{name} {value}" for name, value in where.items()))
    for title, rows in found.items():
        print(f"\n{title}\n{table(rows)}")
    if options.json:
        measured = {title: [asdict(row) for row in rows] for title, rows in found.items()}
        Path(options.json).write_text(json.dumps({**where, "measured": measured}, indent=1) + "\n")


if __name__ == "__main__":
    main()
