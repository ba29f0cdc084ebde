"""What every op must pass. Use it for ops of your own: ``check_op(bridge.OPS["my_op"], *args, **kwargs)``.

Each function takes an op and the arguments of one call; the tensors' values should be random and their shapes odd.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from bridge.core import libraries
from bridge.core.op import Op

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def cast(args: Sequence[Any], dtype: torch.dtype | None = None, device: str | None = None) -> list[Any]:
    """The same arguments with floating-point tensors of that dtype, and every tensor on that device."""

    def convert(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(device=device, dtype=dtype if value.is_floating_point() else None)

    return [convert(value) for value in args]


def outputs_of(result: Any) -> tuple[Tensor, ...]:
    """The outputs of a call as a tuple, also where there is one."""
    return result if isinstance(result, tuple) else (result,)


def check_op(op: Op, *args: Any, **kwargs: Any) -> None:
    """Schema, dispatch, tracing, shapes and gradient of one call on CPU.

    Raises:
        AssertionError, OpCheckError: something differs, which the message names; the latter is torch's own.
    """
    check_shapes(op, *args, **kwargs)
    grads = [a.detach().clone().requires_grad_() if _differentiable(a) else a for a in args]
    torch.library.opcheck(op.overload, tuple(grads), kwargs)
    check_gradient(op, *args, **kwargs)


def _differentiable(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def check_gradient(op: Op, *args: Any, **kwargs: Any) -> None:
    """First and second derivatives against finite differences, in float64."""
    doubles = cast(args, torch.float64)
    places = [i for i, value in enumerate(doubles) if _differentiable(value) and value.numel()]

    def call(*tensors: Tensor) -> Any:
        given = list(doubles)
        for place, tensor in zip(places, tensors, strict=True):
            given[place] = tensor
        return op.overload(*given, **kwargs)

    inputs = tuple(doubles[i].detach().clone().requires_grad_() for i in places)
    if inputs:
        assert torch.autograd.gradcheck(call, inputs, fast_mode=True)
        assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


def check_shapes(op: Op, *args: Any, **kwargs: Any) -> None:
    """The C++ shape rule against the fake implementation."""
    tensors, attributes = op.bind(args, kwargs)
    given = [None if tensor is None else tuple(tensor.shape) for tensor in tensors]
    inferred = libraries.infer_shapes(op, given, attributes)
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=False) as mode:
        fakes = [None if tensor is None else mode.from_tensor(tensor) for tensor in tensors]
        traced = outputs_of(op.overload(*fakes, *attributes.values()))
    expected = [tuple(output.shape) for output in traced]
    assert inferred == expected, f"{op.name}: C++ shapes {inferred}, Python shapes {expected} for {given}, {attributes}"


def check_export(op: Op, sizes: Callable[[int], Sequence[Any]], dynamic_shapes: Sequence[Any], **kwargs: Any) -> None:
    """torch.export with dynamic shapes: the program made at one size must be right at others.

    Args:
        sizes: arguments for a size parameter; called with 3 for the export, then with 2 and 5.
        dynamic_shapes: torch.export's, one entry an argument.
    """

    class Module(torch.nn.Module):
        def forward(self, *values: Any) -> Any:
            return op.overload(*values, **kwargs)

    program = torch.export.export(Module(), tuple(sizes(3)), dynamic_shapes=(tuple(dynamic_shapes),))
    assert any(node.target is op.overload for node in program.graph.nodes), f"{op.name} was decomposed"
    for size in (2, 5):
        values = sizes(size)
        torch.testing.assert_close(program.module()(*values), op.overload(*values, **kwargs), equal_nan=True)


def check_cuda(op: Op, dtype: torch.dtype, *args: Any, **kwargs: Any) -> None:
    """The CUDA kernel against the reference in float64: at most twice the error of the reference in that dtype.

    Outputs are poisoned with NaN first, so that an element never written shows.
    """
    given = cast(args, dtype)
    exact = outputs_of(op.run(*cast(given, torch.float64), **kwargs))
    rounded = outputs_of(op.run(*given, **kwargs))
    with poisoned():
        actual = outputs_of(op.overload(*cast(given, device="cuda"), **kwargs))
    for number, (wanted, peer, ours) in enumerate(zip(exact, rounded, actual, strict=True)):
        assert ours.dtype == dtype and ours.shape == wanted.shape and ours.is_contiguous()
        check_error(f"{op.name}, output {number}, {dtype}", wanted, peer, ours.cpu())


def check_error(what: str, exact: Tensor, peer: Tensor, ours: Tensor) -> None:
    """The largest error of ours must be at most twice that of peer, plus one rounding of the largest value."""
    if exact.numel() == 0:
        return
    assert torch.equal(ours.isnan(), exact.isnan()), f"{what}: NaN where there should be none, or the reverse"
    finite = exact.isfinite() & peer.isfinite()
    assert torch.equal(ours[~finite].double(), peer[~finite].double()) or ours[~finite].isnan().all(), (
        f"{what}: infinities"
    )
    if not finite.any():
        return
    error, allowed = ((x.double() - exact)[finite].abs().max().item() for x in (ours, peer))
    rounding = torch.finfo(peer.dtype).eps * exact[finite].abs().max().item()
    assert error <= 2 * allowed + rounding, f"{what}: error {error:.3g}, allowed 2 * {allowed:.3g} + {rounding:.3g}"


@contextmanager
def poisoned() -> Iterator[None]:
    """Within it, freshly allocated tensors hold NaN (or the largest integer) instead of what memory held."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)  # torch.utils.deterministic fills memory by default
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
