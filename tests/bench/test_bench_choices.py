"""Which kernel an op takes by itself, against what was recorded of all of its kernels; no GPU is needed."""

import pytest
import torch

from bridge.bench import baseline, tactics
from bridge.bench.report import key_of
from bridge.bench.workloads import WORKLOADS

GPUS = {"NVIDIA H200": (90, 132)}  # of the baselines: compute capability, and multiprocessors
BY_KEY = {(w.op, w.name, w.dtype): w for w in WORKLOADS}


def rows(gpu):
    """The rows of a GPU's baseline that tell of several kernels."""
    return [row for row in baseline.load(baseline.RECORDED, gpu)["rows"] if tactics.behind(row) is not None]


@pytest.mark.parametrize("gpu", GPUS)
def test_the_own_choice_is_near_the_fastest_in_every_row(gpu):
    far, chosen = {}, 0
    for row in rows(gpu):
        own = tactics.choice(BY_KEY[key_of(row)], *GPUS[gpu])
        times = {int(number): us for number, us in row["tactics"]["us"].items()}
        fastest = min(times.values())
        chosen += 1
        assert own is not None
        if times[own] > tactics.BEHIND * fastest:
            far[key_of(row)] = f"{own} takes {times[own]:.1f} us, the fastest {fastest:.1f} us"
    assert chosen > 100 and far == {}


def test_the_choice_is_for_the_gpu_that_is_supposed():
    workload = BY_KEY["deform_conv2d", "R50-DCN stage 5, 4 images", "float16"]
    columns, everywhere = range(10, 13), {1, 2, 3, 7}  # kernels of compute capability 9.0 alone, and of 8.0 on
    assert tactics.choice(workload, 90, 132) in columns
    assert tactics.choice(workload, 86, 84) in everywhere
    if not torch.cuda.is_available():
        assert tactics.choice(workload, 0, 0) is None  # there is none
