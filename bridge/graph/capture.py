"""From a model to torch.export's program of it."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram
from torch.fx.experimental import _config as symbolic_config
from torch.utils import _pytree as pytree

from bridge.base.third_party_output import quiet_capture
from bridge.core import tensors
from bridge.errors import ExportError
from bridge.graph.assumptions import broken, note
from bridge.graph.questions import recorded
from bridge.graph.refusals import SMALL_EXAMPLE, explain
from bridge.graph.symbolic import depends_on_values
from bridge.graph.symbolic_arguments import OfExtents

_MODE_DEPENDENT = (torch.nn.modules.dropout._DropoutNd, torch.nn.modules.batchnorm._BatchNorm, torch.nn.RReLU)
_SHOWN_LAYERS = 5


def export(
    model: torch.nn.Module | ExportedProgram,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None,
    dynamic_shapes: Any,
) -> ExportedProgram:
    """The program that torch.export makes of a model on example arguments; an ExportedProgram is returned as it is.

    Raises:
        TypeError: `model` is neither; or it is an ExportedProgram, and arguments are given too.
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
    _refuse_training(model)
    _refuse_forms(args, kwargs or {})
    try:
        with torch.no_grad(), quiet_capture(), _attributes_kept(model):
            return _export(model, *_distinct(tuple(args), dict(kwargs or {})), dynamic_shapes)
    except Exception as error:  # torch.export raises what the model raises, and several kinds of its own
        raise ExportError(f"torch.export cannot capture {type(model).__name__}: {explain(error)}") from error


def _refuse_forms(args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Sparse and nested tensors among the arguments, which torch.export fails at in many ways."""
    for name, given in (("args", tuple(args)), ("kwargs", dict(kwargs))):
        for path, value in pytree.tree_flatten_with_path(given)[0]:
            if isinstance(value, torch.Tensor) and (reason := tensors.refuse(value)) is not None:
                raise ExportError(f"{name}{pytree.keystr(path)} {reason}")


def _export(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic_shapes: Any
) -> ExportedProgram:
    """The first program that holds for all extents; else the first there is, for check_assumptions to tell of."""
    fallback, refusal = None, None
    for attempt in _attempts(model) if dynamic_shapes else _ATTEMPTS[:1]:
        try:
            program = attempt.export(model, args, kwargs, dynamic_shapes)
        except Exception as error:
            if refusal is None and not _about_extents(error):
                raise
            refusal = refusal or error
            continue
        if not broken(program) and not (attempt.counts and _counted(program)):
            return program
        fallback = fallback or program
    if fallback is None:
        assert refusal is not None
        raise refusal
    return fallback


@dataclass(frozen=True)
class _Attempt:
    """A manner of capture.

    deferred: conditions that torch.export cannot prove, such as min(32 * s, 64 * s) == 32 * s, are no reason to refuse.
    general: torch asks less of extents, as it does of those that depend on values; at times that makes such ones.
    strict: torch._dynamo follows the model's code, so that int() of an extent is no question.
    """

    deferred: bool = True
    general: bool = False
    strict: bool = False

    @property
    def counts(self) -> bool:
        """Whether extents may come out that depend on values where none do."""
        return self.general

    def export(self, model: torch.nn.Module, args: Any, kwargs: Any, dynamic_shapes: Any) -> ExportedProgram:
        """The program, with every condition that was met noted."""
        emitted = torch._dynamo.config.do_not_emit_runtime_asserts or self.deferred  # they are noted here
        with (
            recorded() as questions,
            symbolic_config.patch(backed_size_oblivious=self.general),  # type: ignore[attr-defined]
            torch._dynamo.config.patch(do_not_emit_runtime_asserts=emitted),
            contextlib.nullcontext() if self.strict else OfExtents(),
        ):
            program = torch.export.export(
                model,
                args,
                kwargs,
                dynamic_shapes=dynamic_shapes,
                strict=self.strict,
                prefer_deferred_runtime_asserts_over_guards=self.deferred,
            )
        note(program, questions)
        return program


_ATTEMPTS = (
    _Attempt(deferred=False),
    _Attempt(),
    _Attempt(general=True),
    _Attempt(strict=True),
    _Attempt(general=True, strict=True),
)


def _attempts(model: torch.nn.Module) -> list[_Attempt]:
    """A graph that torch.compile traced has no Python left to follow. Within torch.compile, a strict capture may free
    what that is compiling with: SIGSEGV in torch 2.11."""
    traced = isinstance(model, torch.fx.GraphModule)
    return [attempt for attempt in _ATTEMPTS if not (traced and attempt.strict)]


def _about_extents(error: Exception) -> bool:
    """Whether torch.export refuses what the model asks of its extents, of which another attempt may ask less."""
    return any(part in str(error) for part in _OF_EXTENTS) and not re.search(SMALL_EXAMPLE, str(error))


_OF_EXTENTS = (
    "Constraints violated",
    "Specializations unexpectedly required",
    "variables cannot be used as inputs to control flow",
    "Cannot create Dim with inconsistent",
)


def _counted(program: ExportedProgram) -> bool:
    """Whether the extent of some tensor depends on values."""
    values = (node.meta.get("val") for node in program.graph.nodes)
    return any(depends_on_values(extent) for value in values if isinstance(value, Tensor) for extent in value.shape)


@contextlib.contextmanager
def _attributes_kept(model: torch.nn.Module) -> Iterator[None]:
    """Takes off the model what its code kept in attributes while it was traced, such as transformers' tables of
    frequencies: those tensors hold no values, and the model would not run any more."""
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


def _distinct(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with no tensor object in two places: torch.export would make one input of both."""
    seen: set[int] = set()

    def distinct(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor) and id(leaf) in seen:
            return leaf.detach()
        seen.add(id(leaf))
        return leaf

    return pytree.tree_map(distinct, (args, kwargs))


def _refuse_training(model: torch.nn.Module) -> None:
    layers = [name for name, layer in model.named_modules() if layer.training and isinstance(layer, _MODE_DEPENDENT)]
    if model.training or layers:
        shown = ", ".join(layers[:_SHOWN_LAYERS]) + (", …" if len(layers) > _SHOWN_LAYERS else "")
        named = f" (its dropout and batch norm: {shown})" if layers else ""
        raise ExportError(f"{type(model).__name__} is in training mode{named}; call model.eval() first")
