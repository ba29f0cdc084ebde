"""Every kernel of a library's ops under compute-sanitizer, tool by tool. It needs a GPU and no TensorRT."""

import json
import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bridge.testing import kernel_calls
from bridge.testing.sanitizer_calls import Job

OPTIONS = ["--error-exitcode", "86", "--print-limit", "1000"]
# The caching allocator returns parts of larger blocks, whose bounds and writes a tool cannot see.
ENVIRONMENT = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
SUMMARY = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: (\d+) (?:errors?|hazards?)")
KERNEL = re.compile(r"\bat (?:void )?(?:\w+::)*(\w+)[<(]")
CALLS = re.compile(r"^(\d+) calls$", re.MULTILINE)


def sanitizer(environ: Mapping[str, str] = os.environ) -> str:
    """The path of compute-sanitizer. FileNotFoundError: it is not installed."""
    path = kernel_calls.tool("compute-sanitizer", environ)
    if path is None:
        raise FileNotFoundError(
            "there is no compute-sanitizer on PATH, in CUDA_HOME/bin or in /usr/local/cuda/bin: install NVIDIA's"
            " CUDA toolkit, which it is part of, or set CUDA_HOME to where the toolkit is"
        )
    return path


@dataclass(frozen=True)
class Runner:
    """Runs a job under tools, in so many processes at once; what each process wrote is in a file of `logs`.

    part: of the calls only every part[1]-th, from the part[0]-th, counted from 0.
    only: a file that says which are the only calls; `choose` writes it.
    """

    job: Job
    logs: Path
    processes: int = 1
    part: tuple[int, int] = (0, 1)
    only: Path | None = None

    def choose(self) -> "Runner":
        """Runs the calls without a tool, and returns what runs only so few as launch every kernel, aligned and not.

        RuntimeError: a process broke off, or launched nothing.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(self.processes) as pool:
            found = list(pool.map(self._kernels_of_share, range(self.processes)))
        said = {int(number): what for some in found for number, (what, _) in some.items()}
        launched = {int(number): names for some in found for number, (_, names) in some.items()}
        chosen = {number: said[number] for number in kernel_calls.few(launched)}
        kernels = {name.rpartition(", ")[0] for names in launched.values() for name in names}
        if not kernels:
            raise RuntimeError(f"PyTorch's profiler saw no kernel in {len(launched)} calls; see {self.logs}")
        print(
            f"{len(kernels)} kernels in {len(launched)} calls; {len(chosen)} of them launch each, aligned and not",
            flush=True,
        )
        self._say_not_launched(kernels)
        only = self.logs / "calls.json"
        only.write_text(json.dumps(chosen, indent=0))
        (self.logs / "kernels.json").write_text(json.dumps(sorted(kernels), indent=0))
        return replace(self, part=(0, 1), only=only)

    def _say_not_launched(self, launched: Collection[str]) -> None:
        """Prints how many of the library's kernels are launched; writes those that are not to not_launched.json."""
        path, written = self.job.library().find("torch"), self.logs / "not_launched.json"
        written.unlink(missing_ok=True)
        try:
            if path is None:
                raise FileNotFoundError(self.job.library().missing_text("torch"))
            kernels = kernel_calls.of_library(path, torch.cuda.get_device_capability())
        except (FileNotFoundError, RuntimeError) as error:
            print(f"how many kernels the library has is not known: {error}", flush=True)
            return
        missing = [name for name in kernels if name not in launched]
        written.write_text(json.dumps(missing, indent=0))
        count = len(kernels) - len(missing)
        where = f"; {written} names the others" if missing else ""
        print(f"{count} of the library's {len(kernels)} kernels for this GPU{where}", flush=True)

    def _kernels_of_share(self, share: int) -> dict[str, tuple[str, list[str]]]:
        which = f"kernels-{share + 1}-of-{self.processes}"
        out, written = self.logs / f"{which}.log", self.logs / f"{which}.json"
        written.unlink(missing_ok=True)
        code = self._run([*self._share(share), "--kernels", str(written)], out)
        if code or not written.exists():
            raise RuntimeError(f"the calls broke off with exit code {code} before any tool; see {out}")
        return dict(json.loads(written.read_text()))

    def check(self, tool: str) -> bool:
        """Runs the calls under a tool, prints a line of each process, and returns whether all are clean."""
        self.logs.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(self.processes) as pool:
            return all(list(pool.map(lambda share: self._check_share(tool, share), range(self.processes))))

    def _check_share(self, tool: str, share: int) -> bool:
        which = f"{tool}-{share + 1}-of-{self.processes}" if self.processes > 1 else tool
        out, started = self.logs / f"{which}.log", time.monotonic()
        only = ["--only", str(self.only)] if self.only else []
        code = self._run([*self._share(share), *only], out, [sanitizer(), "--tool", tool, *OPTIONS])
        clean, text = judge(code, out.read_text(errors="replace"))
        print(f"{which:10} {text}, {time.monotonic() - started:.0f} s{'' if clean else f'; see {out}'}", flush=True)
        return clean

    def _share(self, share: int) -> list[str]:
        first, step = self.part
        return ["--share", f"{first + share * step + 1}/{step * self.processes}"]

    def _run(self, arguments: Sequence[str], out: Path, tool: Sequence[str] = ()) -> int:
        environment = os.environ | self.job.environment() | ENVIRONMENT
        command = [*tool, *self.job.command(), *arguments]
        with out.open("wb") as file:
            return subprocess.run(command, env=environment, stdout=file, stderr=subprocess.STDOUT).returncode


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
