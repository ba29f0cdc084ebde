"""Call overhead of a small engine, by bridge's runtime and by those of torch_tensorrt.

    python -m bridge.bench.overhead [--json FILE] [--rounds N]

The engine takes a GPU a few microseconds. Every runtime calls it, interleaved in rounds: on the default stream and on
another one, with and without a CUDA graph. `issue` is the time per call without waiting for the GPU. `latency` is the
time of a call and the wait for its result. A runtime that cannot run here is reported with the reason.
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

_CALLS_PER_ROUND = 100  # of one runtime, between two waits for the GPU


@dataclass(frozen=True)
class Row:
    """One runtime on one stream. Times are microseconds per call: median of the rounds, 10th and 90th percentile."""

    runtime: str
    stream: str
    issue: float | None = None
    issue_range: tuple[float, float] | None = None
    latency: float | None = None
    latency_range: tuple[float, float] | None = None
    reason: str | None = None


class SmallModel(nn.Module):
    """A few operators on little data, so that the runtime dominates the time of a call."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """As many results as inputs, each [N, 64]."""
        return tuple(torch.ops.bridge.relu(self.linear(tensor), 0.1) for tensor in tensors)


Call = Callable[..., Any]


@dataclass(frozen=True)
class Runtime:
    """A runtime that calls an engine.

    make: prepares it and returns the call. global_graphs: torch_tensorrt's CUDA graph setting while it runs.
    may_crash: it may end the process, so that a child process tries it first.
    """

    name: str
    make: Callable[[], Call]
    global_graphs: bool = False
    may_crash: bool = False

    def select(self) -> None:
        """Applies the global setting; call it before calls by this runtime."""
        detect().torch_tensorrt().runtime.set_cudagraphs_mode(self.global_graphs)


def runtimes(module: CompiledModule, eager: nn.Module, args: tuple[Tensor, ...]) -> list[Runtime]:
    """Every runtime for the engine of a module."""

    def compiled_with(**settings: bool) -> Callable[[], Call]:
        return lambda: CompiledModule(module.file, **settings)

    result = [
        Runtime("PyTorch, eager", lambda: eager),
        Runtime("execute_async_v3 alone", lambda: _execute_async_v3(module, args)),
        Runtime("bridge", compiled_with()),
        Runtime("bridge, static outputs", compiled_with(static_outputs=True)),
        Runtime("bridge, CUDA graph", compiled_with(cuda_graph=True)),
        Runtime("bridge, CUDA graph, static outputs", compiled_with(cuda_graph=True, static_outputs=True)),
    ]
    for language, kind in (("Python", "PythonTorchTensorRTModule"), ("C++", "TorchTensorRTModule")):
        for graph, what in ((False, ""), (True, ", CUDA graph")):
            make = functools.partial(_torch_tensorrt, kind, module)
            result.append(Runtime(f"torch_tensorrt, {language}{what}", make, graph, may_crash=True))
    return result


def measure(inputs: int, rounds: int, crashing: dict[str, str]) -> list[Row]:
    """Every runtime on both streams; those in `crashing` are listed with the reason."""
    eager, args, module = _engine(inputs)
    rows = []
    for name, stream in (("default", torch.cuda.default_stream()), ("other", torch.cuda.Stream())):
        calls: dict[Runtime, Call] = {}
        with torch.cuda.stream(stream):
            for runtime in runtimes(module, eager, args):
                call, reason = (
                    (None, crashing[runtime.name]) if runtime.name in crashing else _prepare(runtime, eager, args)
                )
                if call is None:
                    rows.append(Row(runtime.name, name, reason=reason))
                else:
                    calls[runtime] = call
            rows += _time(calls, name, args, rounds)
    return rows


def crashing_runtimes() -> dict[str, str]:
    """The runtimes that end the process that tries them, and by which signal."""
    reasons = {}
    eager, args, module = _engine(1)
    for runtime in runtimes(module, eager, args):
        if runtime.may_crash:
            command = [sys.executable, "-m", "bridge.bench.overhead", "--try", runtime.name]
            process = subprocess.run(command, capture_output=True, text=True, timeout=300)
            if process.returncode < 0:
                reasons[runtime.name] = f"it ends the process by {signal.Signals(-process.returncode).name}"
    return reasons


def _try(name: str) -> None:
    eager, args, module = _engine(1)
    for runtime in runtimes(module, eager, args):
        if runtime.name == name:
            _prepare(runtime, eager, args)


def _engine(inputs: int) -> tuple[nn.Module, tuple[Tensor, ...], CompiledModule]:
    """A model, arguments for it, and its engine. EngineError: TensorRT does not run on this GPU."""
    torch.manual_seed(0)
    eager = SmallModel().eval().half().cuda()
    args = tuple(torch.randn(4, 64, device="cuda", dtype=torch.half) for _ in range(inputs))
    return eager, args, bridge.compile(eager, args)


def _prepare(runtime: Runtime, eager: nn.Module, args: tuple[Tensor, ...]) -> tuple[Call | None, str | None]:
    """The call of a runtime, checked against eager PyTorch; or the reason that it cannot run here."""
    try:
        runtime.select()
        call = runtime.make()
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


def _time(calls: dict[Runtime, Call], stream: str, args: tuple[Tensor, ...], rounds: int) -> list[Row]:
    issue: dict[Runtime, list[float]] = {runtime: [] for runtime in calls}
    latency: dict[Runtime, list[float]] = {runtime: [] for runtime in calls}
    current = torch.cuda.current_stream()
    for _ in range(rounds):
        for runtime, call in calls.items():
            runtime.select()
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(_CALLS_PER_ROUND):
                call(*args)
            issue[runtime].append((time.perf_counter() - start) / _CALLS_PER_ROUND * 1e6)
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(_CALLS_PER_ROUND):
                call(*args)
                current.synchronize()
            latency[runtime].append((time.perf_counter() - start) / _CALLS_PER_ROUND * 1e6)
    return [
        Row(runtime.name, stream, *_median_and_range(issue[runtime]), *_median_and_range(latency[runtime]))
        for runtime in calls
    ]


def _median_and_range(values: list[float]) -> tuple[float, tuple[float, float]]:
    tenths = statistics.quantiles(values, n=10)
    return round(statistics.median(values), 2), (round(tenths[0], 2), round(tenths[-1], 2))


def _execute_async_v3(module: CompiledModule, args: tuple[Tensor, ...]) -> Call:
    """TensorRT's call alone, into the same outputs each time: the floor of any runtime."""
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
    tensorrt_module = getattr(runtime, kind)(module.engine, *names, name="small")
    tensorrt_module.setup_engine()
    return tensorrt_module


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


def environment() -> dict[str, Any]:
    """GPU, date and versions of the measurement."""
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
    crashing = crashing_runtimes()
    tables = {f"{n} inputs, {n} outputs": measure(n, options.rounds, crashing) for n in (1, 8)}
    environment_here = environment()
    print(", ".join(f"{name} {value}" for name, value in environment_here.items()))
    for title, rows in tables.items():
        print(f"\n{title}\n{table(rows)}")
    if options.json:
        measured = {title: [asdict(row) for row in rows] for title, rows in tables.items()}
        Path(options.json).write_text(json.dumps({**environment_here, "measured": measured}, indent=1) + "\n")


if __name__ == "__main__":
    main()
