"""Every kernel of every op under compute-sanitizer: `make sanitize`.

    python tests/support/sanitize.py [OP ...]                              the calls alone
    python tests/support/sanitize.py --tools memcheck,initcheck [OP ...]   the calls under each of these tools
    python tests/support/sanitize.py --tools racecheck --jobs 8 [OP ...]   in 8 parallel processes, each with a share

tests/ops must be in PYTHONPATH, as in `make sanitize`.

The calls are the samples that the tests share: in every dtype, with every tactic that supports them on this GPU, with
aligned and unaligned inputs. Inputs are created on the CPU and copied, and every tensor has its own allocation. So no
kernel but bridge's runs, and a tool can attribute every write. Outputs are copied back, which initcheck sees as a read.
"""

import argparse
import itertools
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from plugin_host import Plugin
from samples import MODULES, Sample

from bridge.core import libraries
from bridge.core.op import OPS, Op
from bridge.tensorrt.plugins.fields import make_fields
from bridge.testing import cast, outputs_of

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
LOGS = Path(__file__).parents[2] / "build" / "sanitize"
OPTIONS = ["--error-exitcode", "86", "--print-limit", "1000"]
# The caching allocator returns parts of larger blocks, whose bounds and writes a tool cannot see.
ENVIRONMENT = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
SUMMARY = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: (\d+) (?:errors?|hazards?)")
KERNEL = re.compile(r"\bbridge::(\w+_kernel)\b")
CALLS = re.compile(r"^(\d+) calls$", re.MULTILINE)


# The calls


Call = tuple[str, Op, Sequence, dict, int, bool]  # a description, and the arguments of `call`


def run(names: Sequence[str], share: int = 0, shares: int = 1) -> int:
    """Runs one of equal shares of the calls, and prints each before it runs; returns their number."""
    count = 0
    for description, *arguments in itertools.islice(calls(names), share, None, shares):
        print(description, flush=True)
        call(*arguments)
        count += 1
    return count


def calls(names: Sequence[str]) -> Iterator[Call]:
    for name in names:
        for label, args, kwargs in samples_of(name):
            for dtype in dtypes_of(name):
                tensors = cast(args, dtype)
                for tactic in tactics(OPS[name], tensors, kwargs):
                    for aligned in (True, False):
                        description = (
                            f"{name}, {dtype}, tactic {tactic}, {'aligned' if aligned else 'not aligned'}: {label}"
                        )
                        yield description, OPS[name], tensors, kwargs, tactic, aligned


def samples_of(name: str) -> list[Sample]:
    module = MODULES[name]
    further, switches = getattr(module, "further", list)(), getattr(module, "SWITCHES", {})
    switched = [(f"{label}, {switches}", args, kwargs | switches) for label, args, kwargs in further if switches]
    return [*module.samples(), *further, *switched]


def dtypes_of(name: str) -> list[torch.dtype | None]:
    """The dtypes of its floating-point tensors; None keeps those of the samples."""
    dtypes = [getattr(torch, dtype) for dtype in libraries.plugin_dtypes()[name]]
    return [dtype for dtype in dtypes if dtype.is_floating_point] or [None]


def tactics(op: Op, args: Sequence, kwargs: dict) -> list[int]:
    """The op's tactics that support a call on this GPU, and -1, with which the op chooses."""
    if op.counted:
        return [-1]  # a plugin is configured with result shapes, which depend on values here
    tensors, attributes = op.bind(args, kwargs)
    fields = make_fields(op, [tensor is not None for tensor in tensors], attributes)
    plugin = Plugin(Plugin.create(op.name, {field.name: field.value for field in fields}))
    meta = op.overload(*cast(args, device="meta"), **kwargs)
    if plugin.configure([tensor for tensor in tensors if tensor is not None], outputs_of(meta)):
        raise RuntimeError(f"the plugin {op.name} refuses {attributes}")
    return [number - 2 for number in plugin.tactics()] or [-1]  # TensorRT's first leaves the choice to the op


def call(op: Op, args: Sequence, kwargs: dict, tactic: int, aligned: bool) -> None:
    tensors = [on_gpu(value, aligned) if isinstance(value, torch.Tensor) else value for value in args]
    with libraries.tactic(op.name, tactic):
        outputs = outputs_of(op.overload(*tensors, **kwargs))
    for output in outputs:
        output.cpu()


def on_gpu(tensor: torch.Tensor, aligned: bool) -> torch.Tensor:
    """A copy on the GPU; an unaligned one starts one element after its allocation."""
    flat = tensor.contiguous().flatten()
    if not aligned:
        flat = torch.cat([flat.new_zeros(1), flat])
    return flat.cuda()[0 if aligned else 1 :].view(tensor.shape)


# The tools


def sanitizer(environ: dict[str, str]) -> str:
    """The path of compute-sanitizer. FileNotFoundError: it is not installed."""
    folders = [environ.get("PATH", ""), *(f"{environ[name]}/bin" for name in ("CUDA_HOME",) if environ.get(name))]
    path = shutil.which("compute-sanitizer", path=os.pathsep.join([*folders, "/usr/local/cuda/bin"]))
    if path is None:
        raise FileNotFoundError(
            "there is no compute-sanitizer on PATH, in CUDA_HOME/bin or in /usr/local/cuda/bin; it is part of NVIDIA's"
            " CUDA toolkit"
        )
    return path


def check(tool: str, names: Sequence[str], jobs: int = 1) -> bool:
    """Runs the calls under a tool in parallel processes, and prints a line for each. Whether all are clean."""
    LOGS.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool:
        return all(list(pool.map(lambda job: check_share(tool, names, job, jobs), range(jobs))))


def check_share(tool: str, names: Sequence[str], share: int, shares: int) -> bool:
    which = f"{tool}-{share + 1}-of-{shares}" if shares > 1 else tool
    log, started = LOGS / f"{which}.log", time.monotonic()
    command = [sanitizer(dict(os.environ)), "--tool", tool, *OPTIONS, sys.executable, __file__]
    command += ["--share", f"{share + 1}/{shares}", *names]
    with log.open("wb") as file:
        code = subprocess.run(command, env=os.environ | ENVIRONMENT, stdout=file, stderr=subprocess.STDOUT).returncode
    clean, text = judge(code, log.read_text(errors="replace"))
    print(f"{which:10} {text}, {time.monotonic() - started:.0f} s{'' if clean else f'; see {log}'}", flush=True)
    return clean


def judge(code: int, output: str) -> tuple[bool, str]:
    """Whether a tool's run is clean, and a summary, from its exit code and output."""
    summaries, calls = SUMMARY.findall(output), CALLS.search(output)
    if not summaries or not calls:
        last = next((line for line in reversed(output.splitlines()) if line.strip()), "it wrote nothing")
        return False, f"broke off with exit code {code}: {last}" + _findings_text(output, summaries)
    if code == 0 and not any(map(int, summaries)):
        return True, f"none in {calls[1]} calls"
    return False, f"in {calls[1]} calls, exit code {code}" + _findings_text(output, summaries)


def _findings_text(output: str, summaries: Sequence[str]) -> str:
    kernels = Counter(KERNEL.findall(output))
    where = ", ".join(f"{name} in {count} lines" for name, count in kernels.most_common())
    return f", {sum(map(int, summaries))} found" + (f": {where}" if where else "")


def _tools(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in TOOLS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no tool is called {', '.join(unknown)}; there are {', '.join(TOOLS)}")
    return names


def _share(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"a share is as 2/8, the second of eight, not {text!r}")
    return int(match[1]) - 1, int(match[2])


def _jobs(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"jobs are 1 or more, not {text!r}")
    return int(text)


def _ops(names: Sequence[str]) -> Iterator[str]:
    for name in names or sorted(OPS):
        if name not in OPS:
            raise ValueError(f"no op is called {name!r}; there are {', '.join(sorted(OPS))}")
        yield name


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ops", nargs="*", metavar="OP", help="default: all")
    parser.add_argument("--tools", type=_tools, default=[], metavar="TOOL,TOOL", help=f"of {', '.join(TOOLS)}")
    parser.add_argument("--jobs", type=_jobs, default=1, metavar="N", help="processes of a tool at a time")
    parser.add_argument(
        "--share", type=_share, default=(0, 1), metavar="I/N", help="only every N-th call, from the I-th"
    )
    options = parser.parse_args(argv)
    try:
        names = list(_ops(options.ops))
        if not torch.cuda.is_available():
            raise RuntimeError("kernels run on a CUDA GPU, and there is none")
        if options.tools:
            clean = [check(tool, names, options.jobs) for tool in options.tools]
            return 0 if all(clean) else 1
        print(f"{run(names, *options.share)} calls")
    except (ValueError, RuntimeError, FileNotFoundError) as error:
        print(f"sanitize: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
