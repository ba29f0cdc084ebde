"""Captures a model with torch.export."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from bridge.base.third_party_output import silence_capture
from bridge.core import tensors
from bridge.errors import ExportError
from bridge.graph import dynamo
from bridge.graph.assumptions import broken_conditions, keep_conditions
from bridge.graph.conditions import recording_conditions
from bridge.graph.export_errors import SMALL_EXAMPLE, explain_export_error
from bridge.graph.function_modes.known_values import KnownValues
from bridge.graph.function_modes.symbolic_arguments import SymbolicArguments
from bridge.graph.symbolic import depends_on_values, size_oblivious

_MODE_DEPENDENT = (torch.nn.modules.dropout._DropoutNd, torch.nn.modules.batchnorm._BatchNorm, torch.nn.RReLU)
_SHOWN_LAYERS = 5


def export(
    model: torch.nn.Module | ExportedProgram,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None,
    dynamic_shapes: Any,
) -> ExportedProgram:
    """The program that torch.export captures from example arguments; an ExportedProgram is returned unchanged.

    Raises:
        TypeError: `model` is neither a module nor a program; or arguments come with a program.
        ExportError: the model is in training mode, or torch.export cannot capture it.
    """
    if isinstance(model, ExportedProgram):
        if args or kwargs or dynamic_shapes:
            raise TypeError("an ExportedProgram has its example arguments and dynamic shapes already; pass it alone")
        return model
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model is a {type(model).__name__}, expected torch.nn.Module or torch.export.ExportedProgram")
    if not isinstance(args, (tuple, list)):
        raise TypeError(f"args is a {type(args).__name__}, expected a tuple of the model's arguments")
    _check_eval_mode(model)
    _check_layouts(args, kwargs or {})
    try:
        with torch.no_grad(), silence_capture(), _restoring_attributes(model):
            return _export(model, *_without_aliases(tuple(args), dict(kwargs or {})), dynamic_shapes)
    except Exception as error:  # torch.export raises what the model raises, and several kinds of its own
        raise ExportError(
            f"torch.export cannot capture {type(model).__name__}: {explain_export_error(error)}"
        ) from error


def _check_layouts(args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """ExportError: an argument is a sparse, nested or quantized tensor, on which torch.export fails in many ways."""
    for name, given in (("args", tuple(args)), ("kwargs", dict(kwargs))):
        for path, value in pytree.tree_flatten_with_path(given)[0]:
            if isinstance(value, torch.Tensor) and (reason := tensors.refusal(value)) is not None:
                raise ExportError(f"{name}{pytree.keystr(path)} {reason}")


def _export(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic_shapes: Any
) -> ExportedProgram:
    """The first capture that is valid for all extents, else the first capture, which check_assumptions rejects."""
    fallback, first_error = None, None
    for attempt in _attempts(model) if dynamic_shapes else _ATTEMPTS[:1]:
        try:
            program = attempt.export(model, args, kwargs, dynamic_shapes)
        except Exception as error:
            if first_error is None and not _is_about_extents(error):
                raise
            first_error = first_error or error
            continue
        if not broken_conditions(program) and not (attempt.may_add_unbacked and _has_unbacked_extents(program)):
            return program
        fallback = fallback or program
    if fallback is None:
        assert first_error is not None
        raise first_error
    return fallback


@dataclass(frozen=True)
class _Attempt:
    """Settings of one call of torch.export.

    defer_asserts: accepts conditions that torch.export cannot prove, such as min(32 * s, 64 * s) == 32 * s.
    size_oblivious: fewer guards on extents, but torch.export sometimes makes an extent unbacked.
    strict: torch._dynamo traces the model's code, where int() of an extent makes no guard.
    """

    defer_asserts: bool = True
    size_oblivious: bool = False
    strict: bool = False

    @property
    def may_add_unbacked(self) -> bool:
        """Whether the program may have unbacked extents where the model has none."""
        return self.size_oblivious

    def export(self, model: torch.nn.Module, args: Any, kwargs: Any, dynamic_shapes: Any) -> ExportedProgram:
        """The program, with every condition of its capture."""
        with (
            recording_conditions() as recorded,
            size_oblivious(self.size_oblivious),
            dynamo.without_runtime_asserts(self.defer_asserts),  # the conditions are kept beside the program
            contextlib.nullcontext() if self.strict else KnownValues(model),
            contextlib.nullcontext() if self.strict else SymbolicArguments(),
        ):
            program = torch.export.export(
                model,
                args,
                kwargs,
                dynamic_shapes=dynamic_shapes,
                strict=self.strict,
                prefer_deferred_runtime_asserts_over_guards=self.defer_asserts,
            )
        keep_conditions(program, recorded)
        return program


_ATTEMPTS = (
    _Attempt(defer_asserts=False),
    _Attempt(),
    _Attempt(size_oblivious=True),
    _Attempt(strict=True),
    _Attempt(size_oblivious=True, strict=True),
)


def _attempts(model: torch.nn.Module) -> list[_Attempt]:
    """The attempts that suit a model; no strict one for a graph of torch.compile.

    There is no Python left to trace, and within torch.compile a strict capture may end the process (seen in 2.11).
    """
    traced = isinstance(model, torch.fx.GraphModule)
    return [attempt for attempt in _ATTEMPTS if not (traced and attempt.strict)]


def _is_about_extents(error: Exception) -> bool:
    """Whether the error is about guards on extents, of which another attempt may need fewer."""
    return any(part in str(error) for part in _EXTENT_MESSAGES) and not re.search(SMALL_EXAMPLE, str(error))


_EXTENT_MESSAGES = (
    "Constraints violated",
    "Specializations unexpectedly required",
    "variables cannot be used as inputs to control flow",
    "Cannot create Dim with inconsistent",
)


def _has_unbacked_extents(program: ExportedProgram) -> bool:
    """Whether some tensor has an extent that depends on values."""
    values = (node.meta.get("val") for node in program.graph.nodes)
    return any(depends_on_values(extent) for value in values if isinstance(value, Tensor) for extent in value.shape)


@contextlib.contextmanager
def _restoring_attributes(model: torch.nn.Module) -> Iterator[None]:
    """Restores the attributes that the model's code sets while it is traced, such as transformers' frequency tables.

    They would hold fake tensors, with which the model no longer runs.
    """
    before = [(module, dict(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes in before:
            for name, value in list(vars(module).items()):
                if isinstance(value, FakeTensor) and name not in attributes:
                    delattr(module, name)
                elif isinstance(value, FakeTensor) and value is not attributes[name]:
                    setattr(module, name, attributes[name])


def _without_aliases(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with each tensor object in one place: torch.export would merge two into one input."""
    seen: set[int] = set()

    def distinct(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor) and id(leaf) in seen:
            return leaf.detach()
        seen.add(id(leaf))
        return leaf

    return pytree.tree_map(distinct, (args, kwargs))


def _check_eval_mode(model: torch.nn.Module) -> None:
    layers = [name for name, layer in model.named_modules() if layer.training and isinstance(layer, _MODE_DEPENDENT)]
    if model.training or layers:
        shown = ", ".join(layers[:_SHOWN_LAYERS]) + (", …" if len(layers) > _SHOWN_LAYERS else "")
        named = f" (its dropout and batch norm: {shown})" if layers else ""
        raise ExportError(f"{type(model).__name__} is in training mode{named}; call model.eval() first")
