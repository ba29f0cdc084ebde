"""window_attention as TensorRT's attention layer, which sees all keys, with a dense mask where the window hides some.

Without a mask where none is hidden, or the layer's own causal one shows the same. The mask is one of [queries, keys],
whatever the window: only a window that hides little is worth it. Queries are multiplied by the scale in their own
dtype, and TensorRT chooses the precision of logits and weights, where the plugin's are float32.
"""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from bridge.tensorrt.converters.attention import add_layer
from bridge.tensorrt.converters.layers import Extent, Layers
from bridge.tensorrt.native_lowerings import PLUGIN, Default, lacks
from bridge.tensorrt.plugins.fields import Call

_REASON = "the layer reads every key, which the plugin does not; bridge.tune measures both"
DEFAULTS = {"tensorrt": Default(PLUGIN, _REASON), "tensorrt_rtx": Default(PLUGIN, _REASON)}


def refusal(call: Call, trt: ModuleType) -> str | None:
    """Why a call cannot be converted."""
    if call.attributes["softcap"] != 0:
        return f"softcap is {call.attributes['softcap']}, and TensorRT's attention has none"
    for name, tensor in zip(call.op.tensors, call.tensors, strict=True):
        if tensor is not None and name in ("sinks", "key_ranges"):
            return f"{name} are given, and TensorRT's attention takes none"
    seq = _seq_axis(call.attributes)
    q, k = call.extents("q"), call.extents("k")
    for what, extent in (("q's heads", q[3 - seq]), ("k's heads", k[3 - seq]), ("head_dim", q[3])):
        if extent < 0:
            return f"the number of {what} is dynamic; the layers need a number"
    if 0 <= k[seq] < q[seq]:
        return f"there are {q[seq]} queries and {k[seq]} keys, so that queries may see none, which needs the plugin"
    return lacks(trt, "add_attention")


def add(layers: Layers, tensors: Sequence[Any | None], attributes: Mapping[str, Any]) -> tuple[Any, ...]:
    """One attention layer; heads come first in it."""
    q, k, v = tensors[:3]
    assert q is not None and k is not None and v is not None
    if _seq_axis(attributes) == 1:
        q, k, v = (_swap_heads(layers, tensor) for tensor in (q, k, v))
    queries, keys = layers.extents(q)[2], layers.extents(k)[2]
    causal = _is_causal(queries, keys, attributes)
    mask = None if causal else _mask(layers, queries, keys, attributes)
    scale = attributes["scale"] or q.shape[3] ** -0.5
    layer = add_layer(layers.network, layers.multiply(q, layers.scalar_like(scale, q)), k, v, causal)
    layer.decomposable = True  # for when no fused kernel fits
    if mask is not None:
        layer.mask = mask
    result = layers.output(layer)
    return (result if _seq_axis(attributes) == 2 else _swap_heads(layers, result),)


def _seq_axis(attributes: Mapping[str, Any]) -> int:
    return 2 if attributes["layout"] == "bhsd" else 1


def _swap_heads(layers: Layers, tensor: Any) -> Any:
    layer = layers.network.add_shuffle(tensor)
    if layer is not None:
        layer.first_transpose = (0, 2, 1, 3)
    return layers.output(layer)


def _is_causal(queries: Extent, keys: Extent, attributes: Mapping[str, Any]) -> bool:
    """Whether the layer's causal mask shows what the window does. Extents that are not known may differ."""
    known = isinstance(queries, int) and isinstance(keys, int) and queries == keys
    return known and attributes["window_right"] == 0 and not 0 <= attributes["window_left"] < keys - 1


def _mask(layers: Layers, queries: Extent, keys: Extent, attributes: Mapping[str, Any]) -> Any | None:
    """[1, 1, queries, keys] of bool, True where a query sees a key; None where each sees all."""
    left, right = attributes["window_left"], attributes["window_right"]
    if isinstance(keys, int):
        left, right = (-1 if window >= keys - 1 else window for window in (left, right))
    if left < 0 and right < 0:
        return None
    column = layers.reshape(layers.arange(keys, 0.0, 1.0), [1, 1, 1, keys])
    row = layers.reshape(layers.arange(queries, 0.0, 1.0), [1, 1, queries, 1])
    last = [_number(layers, extent) for extent in (queries, keys)]
    ahead = layers.add(layers.subtract(column, row), layers.subtract(*last))  # keys after a query's own position
    parts = []
    if left >= 0:
        parts.append(layers.elementwise("GREATER", ahead, layers.constant([[[[-left - 0.5]]]])))
    if right >= 0:
        parts.append(layers.elementwise("LESS", ahead, layers.constant([[[[right + 0.5]]]])))
    return parts[0] if len(parts) == 1 else layers.elementwise("AND", *parts)


def _number(layers: Layers, extent: Extent) -> Any:
    """An extent as a float32 tensor of rank 4."""
    if isinstance(extent, int):
        return layers.constant([[[[extent]]]])
    return layers.reshape(layers.cast(extent, layers.trt.DataType.FLOAT), [1, 1, 1, 1])
