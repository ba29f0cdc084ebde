"""Calls of operators that a module lists, for `bridge build-ops` to make plugins of.

The module has `bridge_calls`, a list or a function that returns one. Each call is

    (operator, args, kwargs, dynamic_shapes)

`operator` is what a model calls: an operator of PyTorch, or a function around some. `args` and `kwargs` are example
arguments; `dynamic_shapes` is what torch.export takes: a tuple, or a dict by parameters. Trailing values may be left
out. A plugin serves the calls that have the dtypes, the static extents, the ranges and the values of its call.
"""

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from bridge.config import Config
from bridge.core import libraries
from bridge.doors.generation import marked_instances, unsupported_instances, with_functional_launches
from bridge.doors.lowered_graph import lowered
from bridge.doors.session import Session
from bridge.errors import BridgeError
from bridge.generate.program import Instance
from bridge.generate.tracing.calls import overload_of
from bridge.graph.capture import export
from bridge.graph.shape_profile import input_specs
from bridge.tensorrt.install.flavour import detect

ATTRIBUTE = "bridge_calls"
_EXPECTED = "(operator, args, kwargs, dynamic_shapes), of which what comes last may be left out"
_MOST_VALUES = 4
_NAMES = {"self": "input"}  # of parameters: those of torch's own operators, as its documentation has them


class CallsError(BridgeError):
    """A module does not import, or does not list calls."""


@dataclass(frozen=True)
class ListedCall:
    """A call of an operator, as a module lists it. what: for messages."""

    what: str
    operator: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    dynamic_shapes: Any = None


def calls_of(name: str) -> list[ListedCall]:
    """The calls that a module lists; the current folder is searched, too. CallsError: it lists none."""
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(name)
        listed = getattr(module, ATTRIBUTE, None)
        rows = listed() if callable(listed) else listed
    except Exception as error:
        raise CallsError(f"{name}: {type(error).__name__}: {error}") from error
    if not isinstance(rows, (list, tuple)) or not rows:
        raise CallsError(
            f"{name}.{ATTRIBUTE} is {rows!r}, expected a list, or a function that returns one, of {_EXPECTED}"
        )
    return [_listed(f"{name}.{ATTRIBUTE}[{index}]", row) for index, row in enumerate(rows)]


def _listed(where: str, row: Any) -> ListedCall:
    if not isinstance(row, (list, tuple)) or not 2 <= len(row) <= _MOST_VALUES or not callable(row[0]):
        raise CallsError(f"{where} is {row!r}, expected {_EXPECTED}")
    operator, args, kwargs, shapes = list(row) + [None] * (_MOST_VALUES - len(row))
    if not isinstance(args, (list, tuple)) or not isinstance(kwargs, dict | None):
        raise CallsError(f"{where}: args is a {type(args).__name__} and kwargs a {type(kwargs).__name__}: {_EXPECTED}")
    return ListedCall(f"{_name(operator)} ({where})", operator, tuple(args), kwargs or {}, shapes)


def _name(operator: Any) -> str:
    overload = overload_of(operator)
    if overload is not None:
        return str(overload._schema.name)
    return operator.__name__ if inspect.isfunction(operator) else str(operator)


def in_dtypes(call: ListedCall, dtypes: Sequence[torch.dtype]) -> Iterator[ListedCall]:
    """The call with its floating-point tensors in each of these dtypes; as it is where there are none."""
    for dtype in dtypes:

        def cast(tensor: torch.Tensor, dtype: torch.dtype = dtype) -> torch.Tensor:
            return tensor.to(dtype) if tensor.is_floating_point() else tensor

        args, kwargs = pytree.tree_map_only(torch.Tensor, cast, (call.args, dict(call.kwargs)))
        name = str(dtype).removeprefix("torch.")
        yield replace(call, what=f"{call.what} in {name}", args=args, kwargs=kwargs)
    if not dtypes:
        yield call


def instances_of(calls: Sequence[ListedCall]) -> list[Instance]:
    """The plugins that calls need: of what is defined in Python; where there is none, of what lacks a converter.

    CallsError: a call needs none. Other errors of bridge.compile: a call cannot become a plugin; all name the call.
    """
    libraries.load_installed()
    session = Session(Config(), detect(), "")  # the target plays no part before kernels are compiled
    with session.converting():
        return [instance for call in calls for instance in _instances(call)]


def _instances(call: ListedCall) -> list[Instance]:
    try:
        program = export(_Calling(call.operator).eval(), call.args, call.kwargs, call.dynamic_shapes)
        program = with_functional_launches(program)
        found = marked_instances(program.graph)
        if not found:
            found = unsupported_instances(lowered(program, input_specs(program))[0].graph)
    except BridgeError as error:
        raise type(error)(f"{call.what}: {error}") from error
    if not found:
        raise CallsError(f"{call.what} needs no generated plugin: its operators have plugins or converters already")
    return found


class _Calling(torch.nn.Module):
    """Calls an operator, with the parameters that it has."""

    def __init__(self, operator: Callable[..., Any]) -> None:
        super().__init__()

        def forward(*args: Any, **kwargs: Any) -> Any:
            return operator(*args, **kwargs)

        forward.__signature__ = inspect.Signature(_parameters(operator))  # type: ignore[attr-defined]
        self.forward = forward


def _parameters(operator: Any) -> list[inspect.Parameter]:
    overload = overload_of(operator)
    if overload is None:
        return list(inspect.signature(operator).parameters.values())
    kinds = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(
            _NAMES.get(each.name, each.name),
            kinds[each.kwarg_only],
            default=None if each.has_default_value() else inspect._empty,
        )
        for each in overload._schema.arguments
    ]
