"""Bodies of plain torch are traced as on a GPU, wherever they are: no branch for the CPU is taken in silence."""

import pytest
import torch
from traced import instance_of, launches

from bridge.errors import UnsupportedOpError

X = torch.float32, ((1, 8, 4), 16)


def by_is_cuda(x):
    return x * 2 if x.is_cuda else x * 3


def by_is_cpu(x):
    return x * 3 if x.is_cpu else x * 2


def by_device(x):
    return x * 2 if x.device.type == "cuda" and x.get_device() == 0 else x * 3


def within_a_device(x):
    with torch.device("cuda"):
        return x * 2 if x.is_cuda else x * 3


@pytest.mark.parametrize("body", [by_is_cuda, by_is_cpu, by_device, within_a_device])
def test_a_body_takes_the_branch_for_a_gpu(body):
    (launch,) = launches(instance_of(body, X))
    assert "2.0" in launch.kernel.src and "3.0" not in launch.kernel.src


def test_tensors_may_be_made_on_and_moved_to_any_device():
    def body(x):
        x = x + torch.arange(16).to(x.device) + torch.ones(16, device=x.device).cuda()
        return x + torch.zeros(16, device="cuda").to("cuda:0", torch.float32) + torch.full((16,), 2.0).cpu()

    (launch,) = launches(instance_of(body, X))
    assert len([each for each in launch.arguments if each.type.startswith("*")]) == 2


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_autocast_is_refused_with_its_line(device):
    def body(x):
        with torch.autocast(device, dtype=torch.bfloat16):
            return x @ x.t()

    with pytest.raises(UnsupportedOpError, match=r"turns torch\.autocast on, .* cast with \.to\(\)") as caught:
        instance_of(body, X)
    assert f"{__file__}:{body.__code__.co_firstlineno + 2} in body" in str(caught.value)


def test_autocast_may_be_turned_off_and_be_on_around():
    def body(x):
        with torch.autocast(x.device.type, enabled=False):
            return x.float() * 2

    assert launches(instance_of(body, X))
    with torch.autocast("cpu"):
        assert launches(instance_of(body, X))
