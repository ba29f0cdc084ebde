"""Changes of what a model file returned that `bridge compile` asks for: its dtype, and the shapes of its inputs."""

import inspect
import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim
from torch.utils import _pytree as pytree

from bridge.base.text import listing
from bridge.cli.command import UsageError
from bridge.cli.engines.shape_options import Shape, Shapes, text_of
from bridge.doors.model_file import Model
from bridge.errors import ExportError, UnknownNameError

DTYPES = ("float32", "float16", "bfloat16")


def in_dtype(model: Model, name: str) -> Model:
    """The model and its floating-point tensors in that dtype. UsageError: it is no module."""
    _check_is_module(model, "--dtype")
    dtype = getattr(torch, name)

    def cast(value: Any) -> Any:
        return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

    args, kwargs = pytree.tree_map(cast, (model.args, model.kwargs))
    return replace(model, model=model.model.to(dtype), args=args, kwargs=kwargs)


def in_shapes(model: Model, shapes: Shapes) -> Model:
    """The model with examples of other shapes, and no other dynamic extents than those.

    shapes: (least, tuned, greatest) of an input, or one for all three. An input that is not named keeps its example,
    with static extents. Examples get their new extents by repetition of their values, so that indices stay valid.

    Raises:
        UnknownNameError: no tensor argument has that name.
        UsageError: it is no module; a shape is of another rank; or not min <= opt <= max.
    """
    _check_is_module(model, "--shapes")
    positional = _bound(model)
    arguments = {**positional.arguments, **model.kwargs}
    leaves = pytree.tree_flatten_with_path(arguments)[0]
    names = {path: _name(path) for path, value in leaves if isinstance(value, Tensor)}
    for name in shapes:
        if name not in names.values():
            raise UnknownNameError(f"the model has no input {name!r}; it has {listing(names.values(), name)}")
    profiles = {path: _profile(name, shapes[name]) for path, name in names.items() if name in shapes}
    examples = pytree.tree_map_with_path(
        lambda path, value: _repeated(value, names[path], profiles[path][1]) if path in profiles else value, arguments
    )
    ranges = pytree.tree_map_with_path(
        lambda path, value: _ranges(*profiles[path]) if path in profiles else None, arguments
    )
    kwargs = {name: examples.pop(name) for name in model.kwargs}
    positional.arguments.update(examples)
    return replace(model, args=positional.args, kwargs=kwargs, dynamic_shapes=_of_parameters(model, ranges))


def _check_is_module(model: Model, flag: str) -> None:
    if not isinstance(model.model, torch.nn.Module):
        kind = type(model.model).__name__
        raise UsageError(f"{flag} changes a module and its examples; this is an {kind}, with its own: export another")


def _bound(model: Model) -> inspect.BoundArguments:
    """The positional example arguments, by parameter. ExportError: the model takes no such arguments."""
    try:
        return inspect.signature(model.model.forward).bind_partial(*model.args)
    except TypeError as error:
        raise ExportError(f"{type(model.model).__name__} does not take its example arguments: {error}") from None


def _name(path: Sequence[Any]) -> str:
    """What torch.export calls the input at a place of the arguments."""
    keys = (getattr(key, "key", getattr(key, "idx", getattr(key, "name", ""))) for key in path)
    return "_".join(re.sub(r"[^a-zA-Z0-9]", "_", str(key)).lower() for key in keys)


def _profile(name: str, shapes: Sequence[Shape]) -> tuple[Shape, Shape, Shape]:
    low, tuned, high = shapes if len(shapes) == 3 else [*shapes] * 3
    extents = itertools.zip_longest(low, tuned, high, fillvalue=-1)
    if not all(0 <= least <= best <= most for least, best, most in extents):
        given = "/".join(map(text_of, shapes))
        raise UsageError(f"--shapes {name}:{given} is not min/opt/max, of one rank and with min <= opt <= max")
    return low, tuned, high


def _repeated(example: Tensor, name: str, shape: Shape) -> Tensor:
    """The example's values, repeated or cut off so that they have that shape."""
    if example.dim() != len(shape):
        raise UsageError(
            f"--shapes gives input {name} the shape {text_of(shape)}, of another rank than the model's example, "
            f"{text_of(example.shape)}"
        )
    if not example.numel():
        return example.new_zeros(shape)
    for axis, extent in enumerate(shape):
        places = torch.arange(extent, device=example.device) % example.shape[axis]
        example = example.detach().index_select(axis, places)
    return example


def _ranges(low: Shape, tuned: Shape, high: Shape) -> dict[int, Any] | None:
    """The dynamic extents of an input for torch.export, which finds out itself which of them are equal."""
    bounds = enumerate(zip(low, high, strict=True))
    return {axis: Dim.DYNAMIC(min=least, max=most) for axis, (least, most) in bounds if least != most} or None


def _of_parameters(model: Model, ranges: dict[str, Any]) -> dict[str, Any]:
    """Ranges by argument, as torch.export wants them: by parameter, with what **kwargs takes in a dict of its own."""
    parameters = inspect.signature(model.model.forward).parameters
    rest = {name: ranges.pop(name) for name in model.kwargs if name not in parameters}
    taker = next((each.name for each in parameters.values() if each.kind is each.VAR_KEYWORD), None)
    return {**ranges, **({taker: rest} if taker is not None and rest else {})}
