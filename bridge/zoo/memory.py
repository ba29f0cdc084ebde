"""The GPU memory that a process has, by whomever it was allocated: PyTorch, TensorRT, libraries, the CUDA context."""

import os
import subprocess

_QUERY = ["nvidia-smi", "--query-compute-apps=pid,used_gpu_memory", "--format=csv,noheader,nounits"]


def used() -> int | None:
    """MiB of this process, on all GPUs; None where the driver does not say, as in some containers."""
    try:
        lines = subprocess.run(_QUERY, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return None
    return of_process(lines, os.getpid())


def of_process(lines: list[str], process: int) -> int | None:
    """What lines of `pid, MiB` say of a process; None: nothing, or no number."""
    rows = [[cell.strip() for cell in line.split(",")] for line in lines]
    own = [row[1] for row in rows if len(row) == 2 and row[0] == str(process)]
    return sum(map(int, own)) if own and all(map(str.isdecimal, own)) else None
