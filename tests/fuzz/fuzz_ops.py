"""Calls of ops with arguments drawn at random: shapes, dtypes, strides, forms and attributes.

Every call gives results, or raises an error of bridge's; and what it does on CPU tensors, it does for their shapes
alone, and in the plugin library's rule, which must refuse the same shapes and infer the same results.
"""

import random
from collections import Counter
from typing import Any

import torch
from samples import FIXED, MODULES, RANDOM

from bridge.core import libraries
from bridge.core.op import OPS
from bridge.errors import BridgeError, OpInputError
from bridge.testing import outputs_of

EXTENTS = (0, 1, 2, 3, 5, 8, 16)
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.int8, torch.bool,
          torch.complex64, torch.float8_e4m3fn, torch.uint8)  # fmt: skip
NUMBERS = (0, 1, -1, 2, 3, 7, 2**20, 2**21, 2**31, 2**62, -(2**62))
FLOATS = (0.0, -0.0, 0.25, 1.0, -1.0, 1e30, 1e300, -1e300, float("nan"), float("inf"), float("-inf"))
TEXTS = ("", "bhsd", "bshd", "bsdh", "é")
MOST = 1 << 22  # elements of a result: larger ones are not computed

CALLS = [(name, *RANDOM[name](seed)) for name in FIXED for seed in range(10)]
CALLS += [(name, *call[1:]) for name in OPS if name not in FIXED for call in MODULES[name].samples()]


def run_case(seed: int, number: int) -> Counter[str]:
    """One call. AssertionError: the op, its shapes and its plugin disagree; any other error is a finding too."""
    draw = random.Random(f"{seed} {number}")
    name, args, kwargs = draw.choice(CALLS)
    op = OPS[name]
    tensors, attributes = op.bind(args, kwargs)
    if draw.random() < 0.9:
        tensors = [_tensor(draw, tensor, op.tensors[i] in op.optional) for i, tensor in enumerate(tensors)]
        attributes = {a.name: _attribute(draw, a.type, attributes[a.name]) for a in op.attributes}
    return Counter({f"{name} {_try(op, tensors, attributes)}": 1})


def _tensor(draw: random.Random, tensor: torch.Tensor | None, optional: bool) -> torch.Tensor | None:
    if tensor is None or (optional and draw.random() < 0.1):
        return None
    while draw.random() < 0.12:
        tensor = draw.choice([_other_extent, _other_rank, _other_dtype, _other_strides, _other_values])(draw, tensor)
    return tensor


def _other_extent(draw: random.Random, tensor: torch.Tensor) -> torch.Tensor:
    shape = list(tensor.shape)
    if shape:
        shape[draw.randrange(len(shape))] = draw.choice(EXTENTS)
    return torch.ones(shape).to(tensor.dtype)


def _other_rank(draw: random.Random, tensor: torch.Tensor) -> torch.Tensor:
    return draw.choice(
        [tensor.unsqueeze(0), tensor.flatten(), tensor[None, None, None, None, None], tensor.new_ones(())]
    )


def _other_dtype(draw: random.Random, tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(draw.choice(DTYPES))


def _other_strides(draw: random.Random, tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dim() < 2:
        return torch.stack([tensor, tensor], -1)[..., 0]
    axis = draw.randrange(tensor.dim())
    return draw.choice([tensor.transpose(0, axis), tensor.transpose(0, axis).contiguous().transpose(0, axis),
                        tensor.narrow(axis, 0, 1).expand_as(tensor) if tensor.shape[axis] else tensor])  # fmt: skip


def _other_values(draw: random.Random, tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor
    value = draw.choice([float("nan"), float("inf"), float("-inf"), 0.0, 6e4, -6e4])
    return tensor.clone().fill_(value) if tensor.dtype.itemsize > 1 else tensor


def _attribute(draw: random.Random, kind: str, value: Any) -> Any:
    if draw.random() < 0.85:
        return value
    pools = {"int": NUMBERS, "float": FLOATS, "bool": (True, False), "str": TEXTS}
    several = kind.partition("[")[0]
    return [draw.choice(pools[several]) for _ in range(2)] if several != kind else draw.choice(pools[kind])


def _try(op: Any, tensors: list[Any], attributes: dict[str, Any]) -> str:
    arguments = [*tensors, *(attributes[a.name] for a in op.attributes)]
    given = [tensor for tensor in tensors if tensor is not None]
    try:
        shapes = [tuple(result.shape) for result in outputs_of(_on_meta(op, arguments))] if not op.counted else None
    except OpInputError as error:
        shapes = str(error)
    if isinstance(shapes, list) and any(_numel(shape) > MOST for shape in shapes):
        return "large"
    try:
        found = outputs_of(op.overload(*arguments))
    except (BridgeError, IndexError) as error:
        # Values are looked at on a CPU alone: position ids, levels and images that do not exist.
        seen = isinstance(shapes, str) or op.counted or any(t.numel() for t in given)
        assert isinstance(error, (OpInputError, *getattr(MODULES[op.name], "ALSO_RAISES", ()))), error
        assert seen, error
        if isinstance(shapes, str) and "expected torch." not in shapes:
            _assert_refused(op, tensors, attributes, shapes)
        return "refused"
    if shapes is not None:
        assert [tuple(result.shape) for result in found] == shapes, f"on CPU {found}, its shapes alone {shapes}"
    assert all(result.is_contiguous() for result in found)
    _compare_rule(op, tensors, attributes, found)
    return "computed"


def _on_meta(op: Any, arguments: list[Any]) -> Any:
    return op.overload(*(a.to("meta") if isinstance(a, torch.Tensor) else a for a in arguments))


def _compare_rule(op: Any, tensors: list[Any], attributes: dict[str, Any], found: list[torch.Tensor]) -> None:
    """The plugin library takes what the reference has computed, and infers its shapes; at most so much is counted."""
    rule = libraries.infer_shapes(op, [None if t is None else tuple(t.shape) for t in tensors], attributes)
    for place, (shape, result) in enumerate(zip(rule, found, strict=True)):
        counted = place in op.counted
        assert shape[counted:] == tuple(result.shape)[counted:], f"plugin library {shape}, reference {result.shape}"
        assert not counted or shape[0] >= len(result)


def _assert_refused(op: Any, tensors: list[Any], attributes: dict[str, Any], reason: str) -> None:
    try:
        rule = libraries.infer_shapes(op, [None if t is None else tuple(t.shape) for t in tensors], attributes)
    except OpInputError:
        return
    raise AssertionError(f"the plugin library infers {rule} where the reference says: {reason}")


def _numel(shape: tuple[int, ...]) -> int:
    return int(torch.tensor(shape, dtype=torch.float64).prod())
