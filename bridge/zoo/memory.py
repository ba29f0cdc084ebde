"""The GPU memory of a process, whoever allocated it: PyTorch, TensorRT, libraries, the CUDA context."""

import os
import subprocess

_QUERY = ["nvidia-smi", "--query-compute-apps=pid,used_gpu_memory", "--format=csv,noheader,nounits"]


def used() -> int | None:
    """MiB of this process on all GPUs; None where the driver does not report it, as in some containers."""
    try:
        lines = subprocess.run(_QUERY, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return None
    return of_process(lines, os.getpid())


def of_process(lines: list[str], process: int) -> int | None:
    """MiB of a process, from lines of `pid, MiB`; None without a number for it."""
    rows = [[cell.strip() for cell in line.split(",")] for line in lines]
    own = [row[1] for row in rows if len(row) == 2 and row[0] == str(process)]
    return sum(map(int, own)) if own and all(map(str.isdecimal, own)) else None
