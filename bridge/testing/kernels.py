"""Checks of an op's CUDA kernel, on a GPU, against the reference in float64."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bridge.core.op import Op
from bridge.testing.arguments import LAYOUTS, Layout, cast, laid_out, outputs_of, poisoned, with_dtype


def check_cuda(op: Op, dtype: torch.dtype, *args: Any, **kwargs: Any) -> None:
    """The CUDA kernel against the reference in float64: at most twice the error of the reference in that dtype.

    Outputs are poisoned with NaN first, so that an element never written shows. Outputs of integers must be equal.

    Args:
        dtype: of every floating-point tensor, and of the results where an attribute `dtype` says it.
        args, kwargs: of one call, with tensors on any device.
    Raises:
        AssertionError: a dtype, a shape or a value differs; the message has the error and what is allowed.
    """
    check_cuda_call(op, cast(args, dtype), with_dtype(op, kwargs, dtype))


def check_cuda_layouts(op: Op, dtype: torch.dtype, *args: Any, **kwargs: Any) -> None:
    """The same with inputs that are not contiguous, and with inputs that begin an element after their memory does.

    Raises:
        AssertionError: as `check_cuda` does; the message begins with the layout.
    """
    for layout in LAYOUTS:
        try:
            check_cuda_call(op, cast(args, dtype), with_dtype(op, kwargs, dtype), layout)
        except AssertionError as error:
            raise AssertionError(f"{layout.__name__} inputs: {error}") from error


def check_cuda_call(
    op: Op, args: Sequence[Any], kwargs: dict[str, Any], layout: Layout | None = None, times: float = 2
) -> None:
    """As `check_cuda`, of a call whose tensors may have several dtypes, with every tensor in a layout on the GPU.

    times: so many times the error of the reference are allowed.
    """
    given = cast(args, device="cpu")
    on_gpu = cast(given, device="cuda")
    with poisoned():
        actual = outputs_of(op.overload(*(laid_out(on_gpu, layout) if layout else on_gpu), **kwargs))
    compare(op, "", given, kwargs, actual, times)
    assert all(output.is_contiguous() for output in actual), f"{op.name}: an output is not contiguous"


def compare(
    op: Op, what: str, given: Sequence[Any], kwargs: dict[str, Any], actual: Sequence[Tensor], times: float = 2
) -> None:
    """Outputs against those of the reference in float64; `what` says whose they are, `times` is as in `check_error`.

    AssertionError: number, dtypes, shapes or values differ.
    """
    exact = outputs_of(op.run(*cast(given, torch.float64), **with_dtype(op, kwargs, torch.float64)))
    rounded = outputs_of(op.run(*given, **kwargs))
    for number, (wanted, peer, ours) in enumerate(zip(exact, rounded, actual, strict=True)):
        which = f"{op.name}, output {number}{what}, {ours.dtype}"
        assert ours.dtype == peer.dtype, f"{which}, and the reference's is {peer.dtype}"
        assert ours.shape == wanted.shape, f"{which}: it is {list(ours.shape)}, the reference's {list(wanted.shape)}"
        check_error(which, wanted, peer, ours.cpu(), times)


def check_error(what: str, exact: Tensor, peer: Tensor, ours: Tensor, times: float = 2) -> None:
    """The largest error of ours must be at most `times` that of peer, plus one rounding of the largest value.

    Args:
        what: begins the message.
        exact: the result in float64. peer: another's in the dtype of ours. Integers must equal peer.
    Raises:
        AssertionError: the error is larger, or NaN or an infinity is where there should be none.
    """
    if exact.numel() == 0:
        return
    if not ours.is_floating_point():
        wrong = int((ours != peer).sum())
        assert not wrong, f"{what}: {wrong} of {ours.numel()} elements differ"
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
    what = f"{what}: error {error:.3g}, allowed {times:g} * {allowed:.3g} + {rounding:.3g}"
    assert error <= times * allowed + rounding, what
