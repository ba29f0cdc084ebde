"""Layers that sum, order or normalise along axes: products of matrices, reductions, attention."""

from typing import Any

import torch
from torch import Tensor

from layer_interpreter.table import axes_of, layer, require, wide


@layer("MATRIX_MULTIPLY")
def _matrix_multiply(trt: Any, layer: Any, a: Tensor, b: Tensor) -> Tensor:
    require(a.dtype == b.dtype and a.is_floating_point(), f"product of {a.dtype} and {b.dtype}")
    left, right = _matrix(trt, layer.op0, wide(a), 0), _matrix(trt, layer.op1, wide(b), 1)
    require(left.dim() == right.dim(), f"product of {tuple(a.shape)} and {tuple(b.shape)}")
    for n, m in zip(left.shape[:-2], right.shape[:-2], strict=True):
        require(n == m or 1 in (n, m), f"product of {tuple(a.shape)} and {tuple(b.shape)}")
    product = left @ right
    vectors = [axis for axis, op in ((-2, layer.op0), (-1, layer.op1)) if op == trt.MatrixOperation.VECTOR]
    return product.squeeze(vectors).to(a.dtype)


def _matrix(trt: Any, op: Any, x: Tensor, operand: int) -> Tensor:
    if op == trt.MatrixOperation.VECTOR:
        return x.unsqueeze(-2 + operand)
    return x.mT if op == trt.MatrixOperation.TRANSPOSE else x


@layer("EINSUM")
def _einsum(trt: Any, layer: Any, *tensors: Tensor) -> Tensor:
    require("..." not in layer.equation, "einsum with an ellipsis")
    for labels in layer.equation.split("->")[0].split(","):
        require(len(set(labels.strip())) == len(labels.strip()), f"einsum of a diagonal: {layer.equation}")
    return torch.einsum(layer.equation, *map(wide, tensors)).to(tensors[0].dtype)


@layer("REDUCE")
def _reduce(trt: Any, layer: Any, x: Tensor) -> Tensor:
    require(x.dtype not in (torch.bool, torch.uint8), f"reduction of {x.dtype}")
    axes, keep, operation = axes_of(layer.axes), layer.keep_dims, layer.op.name
    require(all(axis < x.dim() for axis in axes) and bool(axes), f"reduction over {axes} of {x.dim()} dimensions")
    values = wide(x)
    if operation == "AVG" and not x.is_floating_point():
        volume = torch.tensor([x.shape[axis] for axis in axes]).prod()
        return torch.div(values.sum(axes, keep), volume.clamp(min=1), rounding_mode="trunc").to(x.dtype)
    return _REDUCTIONS[operation](values, axes, keep).to(x.dtype)


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keep)
    return x


def _greatest(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if all(x.shape[axis] for axis in axes):
        return x.amax(axes, keep)
    lowest = -torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    return torch.full_like(x.sum(axes, keep), lowest, dtype=x.dtype)


def _least(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if all(x.shape[axis] for axis in axes):
        return x.amin(axes, keep)
    highest = torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).max
    return torch.full_like(x.sum(axes, keep), highest, dtype=x.dtype)


_REDUCTIONS: dict[str, Any] = {
    "SUM": lambda x, axes, keep: x.sum(axes, keep),
    "AVG": lambda x, axes, keep: x.mean(axes, keep),
    "PROD": _product,
    "MAX": _greatest,
    "MIN": _least,
}


@layer("SOFTMAX")
def _softmax(trt: Any, layer: Any, x: Tensor) -> Tensor:
    axes = axes_of(layer.axes)
    require(len(axes) == 1 and axes[0] < x.dim(), f"softmax over {axes} of {x.dim()} dimensions")
    require(x.is_floating_point(), f"softmax of {x.dtype}")
    return torch.softmax(wide(x), axes[0]).to(x.dtype)


@layer("TOPK")
def _topk(trt: Any, layer: Any, x: Tensor, k: Tensor | None = None) -> tuple[Tensor, Tensor]:
    axes, count = axes_of(layer.axes), layer.k if k is None else int(k)
    require(len(axes) == 1 and axes[0] < x.dim(), f"topk over {axes} of {x.dim()} dimensions")
    require(x.dtype not in (torch.bool, torch.uint8), f"topk of {x.dtype}")
    require(count <= min(3840, x.shape[axes[0]]), f"topk of {count} among {x.shape[axes[0]]}")
    order = torch.sort(x, dim=axes[0], descending=layer.op == trt.TopKOperation.MAX, stable=True)
    values, indices = (part.narrow(axes[0], 0, count) for part in order)
    return values, indices.to(torch.int64 if layer.get_output(1).dtype == trt.int64 else torch.int32)


@layer("NORMALIZATION")
def _normalization(trt: Any, layer: Any, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    axes, groups = axes_of(layer.axes), layer.num_groups
    values = wide(x)
    if groups != 1:
        require(axes == list(range(2, x.dim())), f"{groups} groups over {axes}")
        values = values.reshape(x.shape[0], groups, -1, *x.shape[2:])
        axes = list(range(2, values.dim()))
    centred = values - values.mean(axes, keepdim=True)
    normal = centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + layer.epsilon)
    normal = normal.reshape(x.shape)
    if groups != 1 and not layer.is_v2:  # one value per group
        repeats = x.shape[1] // groups
        scale, bias = (t.repeat_interleave(repeats, 1) for t in (scale, bias))
    require(scale.dim() == bias.dim() == x.dim(), f"scale {tuple(scale.shape)} of {tuple(x.shape)}")
    return (normal * wide(scale) + wide(bias)).to(x.dtype)


@layer("CUMULATIVE")
def _cumulative(trt: Any, layer: Any, x: Tensor, axis: Tensor) -> Tensor:
    dim = int(axis)
    values = wide(x).flip(dim) if layer.reverse else wide(x)
    sums = values.cumsum(dim)
    if layer.exclusive:
        sums = sums - values
    return (sums.flip(dim) if layer.reverse else sums).to(x.dtype)


@layer("ATTENTION_INPUT")
def _attention_input(trt: Any, layer: Any, query: Tensor, key: Tensor, value: Tensor, *rest: Tensor | None) -> Tensor:
    attention = layer.attention
    causal = attention.causal_kind.name
    mask = rest[0] if rest else None
    require(query.dtype == key.dtype == value.dtype, f"attention of {query.dtype}, {key.dtype}, {value.dtype}")
    require(query.dim() == key.dim() == value.dim() == 4, f"attention of {query.dim()} dimensions")
    require(mask is None or causal == "NONE", "attention with a mask and a causal mask")
    require(query.shape[1] % key.shape[1] == 0, f"attention of {query.shape[1]} heads and {key.shape[1]}")
    require(query.shape[0] == key.shape[0] == value.shape[0], f"attention of batches {query.shape} {key.shape}")
    groups = query.shape[1] // key.shape[1]
    key, value = (wide(t).repeat_interleave(groups, 1) for t in (key, value))
    scores = wide(query) @ key.mT  # [B, N, S, T]
    if causal != "NONE":
        rows, columns = scores.shape[-2:]
        offset = columns - rows if causal == "LOWER_RIGHT" else 0
        mask = torch.ones(rows, columns, dtype=torch.bool).tril(offset)[None, None]
    if mask is not None:
        require(mask.dim() == 4, f"a mask of {mask.dim()} dimensions")
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + wide(mask)
    weights = torch.softmax(scores, -1) if attention.norm_op == trt.AttentionNormalizationOp.SOFTMAX else scores
    return (weights @ value).to(query.dtype)


@layer("ATTENTION_OUTPUT")
def _attention_output(trt: Any, layer: Any, x: Tensor) -> Tensor:
    return x


@layer("ROTARY_EMBEDDING")
def _rotary_embedding(trt: Any, layer: Any, x: Tensor, cos: Tensor, sin: Tensor, ids: Tensor | None = None) -> Tensor:
    rotary = layer.rotary_embedding_dim or x.shape[3]
    cos, sin = ((table if ids is None else table[ids]).unsqueeze(1).float() for table in (cos, sin))
    part = x[..., :rotary].float()
    first, second = (part[..., 0::2], part[..., 1::2]) if layer.interleaved else part.chunk(2, -1)
    parts = first * cos - second * sin, second * cos + first * sin
    joined = torch.stack(parts, -1).flatten(-2) if layer.interleaved else torch.cat(parts, -1)
    return torch.cat((joined.to(x.dtype), x[..., rotary:]), -1)
