"""The target that an engine is built for: how it is spelt, and which there are."""

from importlib.util import find_spec

import pytest

from bridge.errors import TargetError
from bridge.tensorrt.install import flavour, gpu
from bridge.tensorrt.install.target import cross_targets, resolve_target

needs_rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="needs tensorrt_rtx")


@needs_rtx
@pytest.mark.parametrize("text", ["sm86", "SM_86", "8.6", "86", " sm86 "])
def test_target_spellings(text):
    assert resolve_target(flavour.detect(), text) == "sm86"


@needs_rtx
@pytest.mark.parametrize("text", ["sm99", "foo", "", "sm", "8,6"])
def test_target_that_does_not_exist_names_those_that_do(text):
    with pytest.raises(TargetError) as caught:
        resolve_target(flavour.detect(), text)
    assert "sm75, sm80, sm86, sm89, sm120, sm121" in str(caught.value)


@needs_rtx
def test_no_target_means_the_current_gpu(monkeypatch):
    monkeypatch.setattr(gpu, "current_target", lambda: "sm90")
    assert resolve_target(flavour.detect(), None) == resolve_target(flavour.detect(), "9.0") == "sm90"
    monkeypatch.setattr(gpu, "current_target", lambda: None)
    with pytest.raises(TargetError, match=r"there is no GPU here to build for; pass target= one of sm75"):
        resolve_target(flavour.detect(), None)


def test_standard_tensorrt_builds_for_the_current_gpu_alone(monkeypatch):
    standard = flavour.Flavour("tensorrt", "10.15.1", "2.11.0")
    monkeypatch.setattr(gpu, "current_target", lambda: "sm90")
    assert cross_targets(standard) == []
    assert resolve_target(standard, None) == "sm90"
    with pytest.raises(TargetError, match=r"tensorrt builds for the GPU of this machine alone"):
        resolve_target(standard, "sm86")
