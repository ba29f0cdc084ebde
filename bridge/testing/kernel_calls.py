"""Which kernels calls launch, as PyTorch's profiler sees them, those of a library, and few calls that launch each."""

import bisect
import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

_MARK = "bridge call "
_AT_ONCE = 64  # calls in one profile, which holds every operation of PyTorch's, too
_COPIES = ("Memcpy", "Memset")
_ARCHITECTURE = re.compile(r"arch = sm_(\d+)")  # before the functions of each
_FUNCTION = re.compile(r" Function (\S+):")


def launched(calls: Iterable[tuple[int, Callable[[], object]]]) -> dict[int, list[str]]:
    """The names of the kernels of each call, which is a number and what makes the call.

    A call must wait for its results: the kernels of a call are those that began between its begin and the next one's.
    """
    found: dict[int, list[str]] = {}
    rest = iter(calls)
    while some := list(islice(rest, _AT_ONCE)):
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], acc_events=True) as profiled:
            for number, call in some:
                with record_function(f"{_MARK}{number}"):
                    call()
        found.update(_kernels(profiled.events() or []))
    return found


def _kernels(events: Collection[FunctionEvent]) -> dict[int, list[str]]:
    marks = sorted(
        (event.time_range.start, int(event.name.removeprefix(_MARK)))
        for event in events
        if event.name.startswith(_MARK) and event.device_type.name == "CPU"
    )
    names: dict[int, set[str]] = {number: set() for _, number in marks}
    for event in events:
        if event.device_type.name == "CUDA" and not event.name.startswith((_MARK, *_COPIES)):
            after = bisect.bisect_right(marks, event.time_range.start, key=lambda mark: mark[0])
            names[marks[max(after - 1, 0)][1]].add(event.name)
    return {number: sorted(kernels) for number, kernels in names.items()}


def few(launched: Mapping[int, Collection[str]]) -> list[int]:
    """Few calls, by their numbers, which together launch all that the calls launch: the rarest kernels choose first."""
    callers: dict[str, list[int]] = defaultdict(list)
    for number, names in launched.items():
        for name in names:
            callers[name].append(number)
    chosen: set[int] = set()
    missing = dict(sorted(callers.items(), key=lambda item: (len(item[1]), item[0])))
    while missing:
        numbers = missing[next(iter(missing))]
        best = max(numbers, key=lambda number: (sum(name in missing for name in launched[number]), -number))
        chosen.add(best)
        for name in launched[best]:
            missing.pop(name, None)
    return sorted(chosen)


def tool(name: str, environ: Mapping[str, str] = os.environ, further: Sequence[Path] = ()) -> str | None:
    """The path of a program of CUDA's: on PATH, in CUDA_HOME/bin, in /usr/local/cuda/bin or in `further` folders."""
    folders = [environ.get("PATH", ""), *(f"{environ[name]}/bin" for name in ("CUDA_HOME",) if environ.get(name))]
    return shutil.which(name, path=os.pathsep.join([*folders, "/usr/local/cuda/bin", *map(str, further)]))


def of_library(path: Path, capability: tuple[int, int]) -> list[str]:
    """The names of a library's kernels for a GPU of that compute capability, as the profiler spells them.

    FileNotFoundError: there is no cuobjdump. RuntimeError: it fails, or the library has none for that GPU.
    """
    program = tool("cuobjdump", further=list(_folders_of_triton()))
    if program is None:
        raise FileNotFoundError(
            "there is no cuobjdump on PATH, in CUDA_HOME/bin, in /usr/local/cuda/bin or in Triton's package"
        )
    done = subprocess.run([program, "-res-usage", str(path)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{program} fails on {path}: {done.stderr.strip()}")
    return sorted(map(demangled, _mangled(done.stdout, capability)))


def _folders_of_triton() -> Iterator[Path]:
    spec = importlib.util.find_spec("triton")
    for folder in (spec and spec.submodule_search_locations) or ():
        yield Path(folder) / "backends" / "nvidia" / "bin"


def _mangled(text: str, capability: tuple[int, int]) -> set[str]:
    """The functions in what cuobjdump writes of a library, of the code that a GPU runs: the newest of its major."""
    found: dict[int, set[str]] = defaultdict(set)
    architecture = 0
    for line in text.splitlines():
        if match := _ARCHITECTURE.match(line):
            architecture = int(match[1])
        elif match := _FUNCTION.match(line):
            found[architecture].add(match[1])
    major, minor = capability
    fitting = [each for each in found if each // 10 == major and each % 10 <= minor]
    if not fitting:
        raise RuntimeError(f"it has kernels for sm_{', sm_'.join(map(str, sorted(found)))}, none for sm_{major}{minor}")
    return found[max(fitting)]


def demangled(name: str) -> str:
    """A C++ symbol as text, by the C++ library that PyTorch has loaded: the profiler asks it, too."""
    if not name.startswith("_Z"):
        return name  # of a function that is declared as one of C
    library = ctypes.CDLL("libstdc++.so.6")
    library.__cxa_demangle.restype = ctypes.c_void_p
    library.__cxa_demangle.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    address = library.__cxa_demangle(name.encode(), None, None, None)
    if not address:
        return name
    text = ctypes.string_at(address).decode()
    library.free(ctypes.c_void_p(address))
    return text
