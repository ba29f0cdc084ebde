"""The stand-in for a GPU: answers as told, and gone afterwards."""

import threading

import pytest
import torch
import triton
from torch._subclasses.fake_tensor import FakeTensorMode

from bridge.errors import UnsupportedOpError
from bridge.generate import without_gpu
from bridge.generate.without_gpu import stand_in_gpu


def answers():
    return {name: getattr(torch.cuda, name) for name in ("is_available", "get_device_properties", "_lazy_init")}


def test_torch_and_triton_see_the_gpu_that_was_named():
    before, driver = answers(), triton.runtime.driver._active
    with stand_in_gpu((9, 0)):
        assert torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
        assert torch.cuda.get_device_properties(0).multi_processor_count == 132
        active = triton.runtime.driver.active
        assert active.get_current_target() == triton.backends.compiler.GPUTarget("cuda", 90, 32)
        assert active.utils.get_device_properties(0)["multiprocessor_count"] == 132
        with stand_in_gpu((12, 1)):
            assert torch.cuda.get_device_capability() == (12, 1)
            assert torch.cuda.get_device_properties().multi_processor_count == 170  # as (12, 0)
        assert torch.cuda.get_device_capability() == (9, 0)
    assert answers() == before and triton.runtime.driver._active is driver


def test_fake_tensors_can_be_on_it():
    with stand_in_gpu(), FakeTensorMode():
        x = torch.empty(3, device="cuda")
        with torch.cuda.device(x.device):
            y = torch.arange(3, device=x.device) + x
    assert x.is_cuda and y.device == torch.device("cuda", 0) and y.shape == (3,)


def test_it_is_taken_away_after_an_error():
    before = answers()
    with pytest.raises(ZeroDivisionError), stand_in_gpu():
        raise ZeroDivisionError
    assert answers() == before


def test_one_thread_at_a_time():
    seen = []

    def other():
        with stand_in_gpu((8, 6)):
            seen.append(torch.cuda.get_device_capability())

    with stand_in_gpu((9, 0)):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.1)
        assert not seen and torch.cuda.get_device_capability() == (9, 0)
    thread.join(10)
    assert seen == [(8, 6)]


def test_a_name_that_has_moved_is_named(monkeypatch):
    monkeypatch.delattr(without_gpu.fake_tensor, "init_gpu_context")
    before = answers()
    with pytest.raises(UnsupportedOpError, match="fake_tensor has no 'init_gpu_context' in torch"), stand_in_gpu():
        pass
    assert answers() == before
