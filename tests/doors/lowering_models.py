"""A compiled model, a call and a measurement for the tests of lowerings."""

from importlib.util import find_spec

import pytest
import torch
from compile_models import Convolutional

import bridge
from bridge.core.op import OPS
from bridge.doors.lowerings.measured_lowerings import Measurement
from bridge.engine_file import dtypes
from bridge.tensorrt.install import flavour
from bridge.tensorrt.plugins.fields import Call

needs_torch_tensorrt = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")


def compiled(model=Convolutional, dtype=torch.float16, **settings):
    torch.manual_seed(0)
    args, dynamic_shapes = model.example(dtype)
    return bridge.compile(
        model().eval().to(dtype), args, dynamic_shapes=dynamic_shapes, **({"target": "sm86"} | settings)
    )


def relu_call(shape=(3, 5), **attributes):
    half = dtypes.from_torch(torch.float16)
    return Call("relu", OPS["relu"], ((half, shape),), (half,), {"negative_slope": 0.1, "max_value": 6.0} | attributes)


def measurement(kind, lowering="native", **changes):
    found = flavour.detect()
    values = {
        "kind": kind,
        "lowering": lowering,
        "plugin_us": 15.1,
        "native_us": 12.3,
        "noise_us": 0.2,
        "gpu": "NVIDIA A10",
        "target": "sm86",
        "flavour": found.name,
        "tensorrt": found.version,
        "bridge": bridge.__version__,
        "measured": "2026-01-01T00:00:00+00:00",
    }
    return Measurement(**(values | changes))
