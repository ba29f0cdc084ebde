"""What bridge.report says of models behind torch.compile."""

import pytest
import torch
from backend_models import OPTIONS, Numbers, built, compiled, needs_no_gpu
from compile_models import Convolutional
from torch import nn

import bridge
from bridge.doors.backend import bridge_backend


@needs_no_gpu
def test_the_report_reads_well():
    text = str(built(compiled(Convolutional()), torch.randn(2, 3, 16, 12)))
    assert "engines        1, 0 from the cache" in text and "plugins: 2 relu" in text
    assert "x [2, 3, 16, 12] to [2, 3, 16, 12]" in text and "compile_models.py" in text


def test_a_report_of_something_else_is_a_type_error():
    with pytest.raises(TypeError, match=r"not a Linear"):
        bridge.report(nn.Linear(2, 2))


def test_a_report_of_two_compiled_models_keeps_them_apart(on_cpu):
    first, second = compiled(Numbers()), compiled(Convolutional())
    first(torch.randn(2, 8), 1)
    assert len(bridge.report(first).graphs) == 1 and not bridge.report(second).graphs


def test_functions_are_reported_too(on_cpu):
    def function(x):
        return bridge.relu(x * 2.0, 0.5)

    fast = torch.compile(function, backend=bridge_backend, options=OPTIONS)
    x = torch.randn(3, 4)
    torch.testing.assert_close(fast(x), function(x))
    assert bridge.report(fast).plugin_counts() == {"relu": 1}
