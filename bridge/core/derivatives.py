"""Which derivatives an op has: in reverse mode its own formula, in every other way those of its reference."""

from collections.abc import Callable
from typing import Any

import torch
from torch._C._functorch import TransformType, peek_interpreter_stack
from torch._library.autograd import Info, make_autograd_impl
from torch._ops import OpOverload
from torch.autograd import forward_ad

_TRANSFORMS = (TransformType.Grad, TransformType.Jvp)


def register(
    library: torch.library.Library,
    overload: OpOverload,
    reference: Callable[..., Any],
    backward: Callable[..., Any],
    setup_context: Callable[..., Any],
) -> None:
    """Registers the derivatives of an op.

    torch.library.register_autograd alone would drop tangents in silence, so that forward mode (torch.func.jvp, jacfwd,
    torch.autograd.forward_ad) gave zeros, and torch.func.grad cannot go through what it registers. In both `reference`,
    in plain torch, runs in the op's place.
    """
    reverse = make_autograd_impl(overload, Info(backward, setup_context))

    def derive(keyset: torch._C.DispatchKeySet, *args: Any) -> Any:
        return reference(*args) if _needs_reference(args) else reverse(keyset, *args)

    library.impl(overload._opname, derive, "Autograd", with_keyset=True)


def _needs_reference(args: tuple[Any, ...]) -> bool:
    interpreter = peek_interpreter_stack()
    if interpreter is not None:
        return interpreter.key() in _TRANSFORMS
    return forward_ad._current_level >= 0 and any(map(_has_tangent, args))


def _has_tangent(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and forward_ad.unpack_dual(value).tangent is not None
