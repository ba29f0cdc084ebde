"""window_attention as TensorRT's attention layer: which windows need a mask, and what is left to the plugin."""

from importlib.util import find_spec

import pytest
import torch
from samples.window_attention import window_attention_arguments
from test_native_lowering import call_of, lowered, run

import bridge
from bridge.core.op import OPS
from bridge.errors import UnsupportedOpError
from bridge.tensorrt import native_lowerings
from bridge.tensorrt.install import flavour

pytestmark = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="needs tensorrt_rtx")
NAME = "window_attention"
DYNAMIC = {place: [0, 2] for place in range(3)}


def _masked(queries, keys, left, right, dynamic=None):
    """Whether the layer has a mask, and what causal one of its own."""
    args = window_attention_arguments(2, queries, keys)
    tensors, attributes = OPS[NAME].bind(args[:3], {"window_left": left, "window_right": right})
    trt, _, network, _ = lowered(NAME, tensors, attributes, dynamic or {})
    inputs = [network.get_layer(i) for i in range(network.num_layers)]
    (layer,) = [each for each in inputs if each.type == trt.LayerType.ATTENTION_INPUT]
    layer.__class__ = trt.IAttentionBoundaryLayer
    return layer.attention.mask is not None, layer.attention.causal_kind.name


@pytest.mark.parametrize(
    ("queries", "keys", "left", "right", "dynamic", "expected"),
    [
        (9, 9, -1, 0, None, (False, "UPPER_LEFT")),
        (9, 9, 8, 0, None, (False, "UPPER_LEFT")),
        (9, 9, 7, 0, None, (True, "NONE")),
        (9, 9, 8, 8, None, (False, "NONE")),
        (9, 9, 8, 7, None, (True, "NONE")),
        (5, 9, -1, -1, None, (False, "NONE")),
        (5, 9, 8, 0, None, (True, "NONE")),
        (9, 9, 8, 0, DYNAMIC, (True, "NONE")),
        (9, 9, -1, -1, DYNAMIC, (False, "NONE")),
    ],
)
def test_a_mask_where_the_window_hides_a_key(queries, keys, left, right, dynamic, expected):
    assert _masked(queries, keys, left, right, dynamic) == expected


@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(9, 9), (5, 9), (1, 40)])
@pytest.mark.parametrize(("left", "right"), [(-1, 0), (3, 0), (-1, -1), (2, 4), (0, 0), (-1, 2), (5, -1), (100, 100)])
def test_windows(left, right, queries, keys, dynamic, layout):
    args = window_attention_arguments(2, queries, keys, layout=layout)[:3]
    kwargs = {"window_left": left, "window_right": right, "scale": 0.3, "layout": layout}
    (ours,) = run(NAME, args, kwargs, {place: [0, 1, 2] for place in range(3)} if dynamic else None)
    torch.testing.assert_close(ours, OPS[NAME].run(*args, **kwargs), rtol=1e-5, atol=1e-5)


def _refusal(args, **kwargs):
    return native_lowerings.refusal(call_of(NAME, args, kwargs), flavour.detect().trt())


def test_what_the_layer_cannot_compute():
    q, k, v, sinks, ranges = window_attention_arguments(2, 5, 9, sinks=True, ranges="both")
    assert _refusal([q, k, v]) is None
    assert "softcap is 2.0" in _refusal([q, k, v], softcap=2.0)
    assert "sinks are given" in _refusal([q, k, v, sinks])
    assert "key_ranges are given" in _refusal([q, k, v, None, ranges])
    assert "there are 5 queries and 4 keys" in _refusal([q, k[:, :, :4], v[:, :, :4]])


class Windows(torch.nn.Module):
    """Self-attention with a window, and a soft-cap of 0 or more."""

    def __init__(self, softcap=0.0):
        super().__init__()
        self.softcap = softcap

    def forward(self, x):
        q = x.unflatten(-1, (4, 16)).transpose(1, 2)
        out = bridge.window_attention(q, q[:, :2], q[:, 2:], window_left=20, softcap=self.softcap)
        return out.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("lowering", ["native", "plugin", "auto"])
def test_an_engine_has_what_is_asked_for(lowering):
    x = torch.randn(2, 40, 64).half()
    shapes = {"x": {0: torch.export.Dim("batch", min=1, max=4), 1: torch.export.Dim("length", min=1, max=128)}}
    engine = bridge.compile(Windows().eval(), (x,), dynamic_shapes=shapes, target="sm86", lowering=lowering)
    assert dict(engine.plugin_counts()) == ({} if lowering == "native" else {NAME: 1})


def test_a_near_miss_is_not_lowered_so():
    x = torch.randn(2, 40, 64).half()
    text = r'window_attention: lowering "native" is requested, but softcap is 2\.0'
    with pytest.raises(UnsupportedOpError, match=text):
        bridge.compile(Windows(2.0).eval(), (x,), target="sm86", lowering="native")
    engine = bridge.compile(Windows(2.0).eval(), (x,), target="sm86")
    assert dict(engine.plugin_counts()) == {NAME: 1}
