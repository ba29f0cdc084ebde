"""rope as TensorRT's rotary embedding layer, or as plain layers that TensorRT fuses.

The layer takes heads before the sequence, and tables with one value per pair, in the dtype of queries and keys. With
float32 tables, queries and keys are cast around it. With 16-bit tables TensorRT chooses the precision, where the
reference computes in float32. The plain layers compute in float32. A position id outside its table gives any value.
"""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from bridge.tensorrt.converters.layers import Layers
from bridge.tensorrt.native_lowerings import PLUGIN, Default
from bridge.tensorrt.plugins.fields import Call

_UNMEASURED = "the plugin rotates queries and keys in one launch; no measurement says that TensorRT's layers are faster"
DEFAULTS = {"tensorrt": Default(PLUGIN, _UNMEASURED), "tensorrt_rtx": Default(PLUGIN, _UNMEASURED)}


def refusal(call: Call, trt: ModuleType) -> str | None:
    """Why a call cannot be converted: slicing pairs needs fixed widths."""
    q, cos = call.extents("q"), call.extents("cos")
    if q[3] < 1:
        return f"head_dim is {'dynamic' if q[3] < 0 else q[3]}; the layers need a number"
    return "the width of cos and sin is dynamic; the layers need a number" if cos[-1] < 0 else None


def add(layers: Layers, tensors: Sequence[Any | None], attributes: Mapping[str, Any]) -> tuple[Any, ...]:
    """Queries and keys, each rotated by layers of its own."""
    q, k, cos, sin, ids = tensors
    assert q is not None and k is not None and cos is not None and sin is not None
    rotary = attributes["rotary_dim"] or q.shape[3]
    seq_axis = 2 if attributes["layout"] == "bhsd" else 1
    half = cos.shape[-1] == rotary // 2
    if seq_axis == 2 and half and hasattr(layers.network, "add_rotary_embedding"):
        cos, sin, ids = _whole_batch(layers, q, cos, sin, ids)
        return tuple(_layer(layers, x, cos, sin, ids, rotary, attributes["interleaved"]) for x in (q, k))
    rows = [_rows(layers, table, ids, 3 - seq_axis) for table in (cos, sin)]
    cosines, sines = (_pairs(layers, table, rotary, attributes) for table in rows)
    return tuple(_rotate(layers, x, cosines, sines, rotary, attributes) for x in (q, k))


def _whole_batch(layers: Layers, q: Any, cos: Any, sin: Any, ids: Any | None) -> tuple[Any, Any, Any | None]:
    """Tables [B, S, W], or [P, W] with position ids [B, S]: the layer does not broadcast."""
    batch, _, seq, _ = layers.extents(q)
    if ids is not None:
        return cos, sin, layers.expand(ids, [batch, seq])
    width = cos.shape[-1]
    tables = [layers.reshape(x, [1, seq, width]) if len(x.shape) == 2 else x for x in (cos, sin)]
    cos, sin = (layers.expand(table, [batch, seq, width]) for table in tables)
    return cos, sin, None


def _layer(layers: Layers, x: Any, cos: Any, sin: Any, ids: Any | None, rotary: int, interleaved: bool) -> Any:
    wide = _widest(layers, x, cos, sin)
    tables = [layers.cast(table, wide) for table in (cos, sin)]
    layer = layers.network.add_rotary_embedding(layers.cast(x, wide), *tables, interleaved, rotary)
    if layer is not None and ids is not None:
        layer.set_input(3, ids)
    return layers.cast(layers.output(layer), x.dtype)


def _widest(layers: Layers, *tensors: Any) -> Any:
    """float32 if any tensor has it, else the dtype of all."""
    wide = layers.trt.DataType.FLOAT
    return wide if any(tensor.dtype == wide for tensor in tensors) else tensors[0].dtype


def _rows(layers: Layers, table: Any, ids: Any | None, head_axis: int) -> Any:
    """The table row of each token in float32: [B or 1, 1, S, W] or [B or 1, S, 1, W]."""
    rows = table if ids is None else layers.gather(table, ids)
    shape = layers.extents(rows)
    shape = shape if len(shape) == 3 else [1, *shape]
    return layers.cast(layers.reshape(rows, [*shape[:head_axis], 1, *shape[head_axis:]]), layers.trt.DataType.FLOAT)


def _pairs(layers: Layers, x: Any, rotary: int, attributes: Mapping[str, Any]) -> tuple[Any, Any]:
    """First and second elements of the pairs in [..., rotary]; [..., rotary / 2] stands for both."""
    half, axis = rotary // 2, len(x.shape) - 1
    if x.shape[axis] == half:
        return x, x
    if attributes["interleaved"]:
        return layers.slice(x, axis, 0, half, 2), layers.slice(x, axis, 1, half, 2)
    return layers.slice(x, axis, 0, half), layers.slice(x, axis, half, half)


def _rotate(
    layers: Layers, x: Any, cos: tuple[Any, Any], sin: tuple[Any, Any], rotary: int, attributes: Mapping[str, Any]
) -> Any:
    wide = layers.cast(x, layers.trt.DataType.FLOAT)
    head_dim = x.shape[3]
    rotated_part = wide if rotary == head_dim else layers.slice(wide, 3, 0, rotary)
    first, second = _pairs(layers, rotated_part, rotary, attributes)
    parts = [
        layers.subtract(layers.multiply(first, cos[0]), layers.multiply(second, sin[0])),
        layers.add(layers.multiply(second, cos[1]), layers.multiply(first, sin[1])),
    ]
    result = _interleave(layers, parts) if attributes["interleaved"] else layers.concatenate(parts, 3)
    if rotary < head_dim:
        result = layers.concatenate([result, layers.slice(wide, 3, rotary, head_dim - rotary)], 3)
    return layers.cast(result, x.dtype)


def _interleave(layers: Layers, parts: Sequence[Any]) -> Any:
    """[..., R/2] twice, as pairs of neighbours in [..., R]."""
    shape = layers.extents(parts[0])
    columns = [layers.reshape(part, [*shape, 1]) for part in parts]
    return layers.reshape(layers.concatenate(columns, 4), [*shape[:3], 2 * shape[3]])
