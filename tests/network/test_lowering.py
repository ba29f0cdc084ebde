"""What operators are written out as, against PyTorch; the assumptions of a program; the lines of a model."""

from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

from bridge import errors
from bridge.graph.assumptions import check_assumptions
from bridge.graph.model_source import model_line
from bridge.tensorrt.converters.attention import attention
from bridge.tensorrt.decompositions import decompositions
from bridge.tensorrt.decompositions.arithmetic import batch_norm


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"scale": 0.3},
        {"is_causal": True},
        {"attn_mask": torch.rand(6, 5) > 0.2},
        {"attn_mask": torch.randn(2, 1, 6, 5)},
        {"enable_gqa": True, "is_causal": True},
    ],
    ids=["plain", "scale", "causal", "mask of bools", "mask of numbers", "groups"],
)
def test_attention_written_out_is_pytorchs(kwargs):
    heads = 2 if kwargs.get("enable_gqa") else 4
    q, k, v = torch.randn(2, 4, 6, 8), torch.randn(2, heads, 5, 8), torch.randn(2, heads, 5, 8)
    torch.testing.assert_close(attention(q, k, v, **kwargs), F.scaled_dot_product_attention(q, k, v, **kwargs))


def test_a_query_that_sees_no_key_is_no_nan():
    q = torch.randn(1, 1, 3, 4)
    assert attention(q, q, q, torch.zeros(3, 3, dtype=torch.bool)).isfinite().all()


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("norm", "shape"), [(nn.BatchNorm2d, (2, 5, 4, 3)), (nn.BatchNorm1d, (7, 5))])
def test_batch_norm_written_out_is_pytorchs(norm, shape, affine):
    layer = norm(5, affine=affine).eval()
    for tensor in layer.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape) + 0.5)
    x = torch.randn(shape)
    result, *_ = batch_norm(x, layer.weight, layer.bias, layer.running_mean, layer.running_var, 0.1, layer.eps)
    torch.testing.assert_close(result, layer(x))


@pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")
def test_ops_and_attention_are_never_taken_apart():
    from bridge.tensorrt.install import flavour

    flavour.detect().torch_tensorrt()
    table = decompositions()
    assert not {op for op in table if str(op).startswith("bridge")}
    assert torch.ops.aten.scaled_dot_product_attention.default not in table


class Grouped(nn.Module):
    def forward(self, x):
        return x.reshape(x.shape[0] // 2, 2, -1) + 1


def grouped(dim):
    return torch.export.export(
        Grouped(),
        (torch.randn(4, 3),),
        dynamic_shapes={"x": {0: dim}},
        prefer_deferred_runtime_asserts_over_guards=True,
    )


def test_assumptions_are_checked_over_the_whole_range():
    check_assumptions(grouped(2 * Dim("half", min=1, max=1000)))
    with pytest.raises(errors.ExportError) as caught:
        check_assumptions(grouped(Dim("rows", min=2, max=1000)))
    assert "dynamic_shapes allows x.shape[0] = 3" in str(caught.value) and __file__ in str(caught.value)


def test_model_lines_skip_torch_and_fall_back_to_the_module():
    graph = torch.fx.Graph()
    node = graph.placeholder("x")
    node.meta["stack_trace"] = (
        'File "/home/me/net.py", line 7, in forward\n    return self.act(x)\n'
        f'File "{torch.__file__}", line 1, in relu\n    return torch.relu(x)'
    )
    assert model_line(node) == "/home/me/net.py:7 in forward: return self.act(x)"
    node.meta = {"nn_module_stack": {"a": ("layers.3", "Block")}}
    assert model_line(node) == "in module layers.3"
    node.meta = {}
    assert model_line(node) == "at an unknown line"
