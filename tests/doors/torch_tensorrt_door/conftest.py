"""torch_tensorrt with bridge's ops registered, and a context in which it builds engines with and without a GPU."""

import pytest
import torch

from bridge.doors import torch_tensorrt_door as door
from bridge.tensorrt.install import flavour


@pytest.fixture(scope="module")
def torch_tensorrt():
    module = flavour.detect().torch_tensorrt()
    door.register()
    return module


@pytest.fixture
def build_here(torch_tensorrt):
    """A context in which engines are built: for sm86 where there is no GPU, for the GPU where there is one."""
    return lambda: door.cross_compile(None if torch.cuda.is_available() else "sm86")
