"""Pooling of maps with dynamic extents, for all of them.

torch asks of a dynamic extent whether the stride divides it, and with ceil_mode whether the last window starts behind
the map: a program would be exported for even extents alone. The number of windows can be said without these questions.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import _meta_registrations as metas

from bridge.base.patches import replace

_NAME = "pooling_output_shape_pad_lr"  # torch 2.11's; a version that lacks it is left as it is


def windows(extent: Any, span: Any, step: Any, start: Any, end: Any, ceil_mode: bool) -> Any:
    """How many windows, that reach over `span` elements each, PyTorch places on an axis with padding at both ends.

    With ceil_mode the last one may reach over the end, but starts within the map or the padding before it.
    """
    left = extent + start + end - span
    if not ceil_mode:
        return left // step + 1
    count = (left + step - 1) // step + 1
    return count if end + step <= span else torch.sym_min(count, (extent + start - 1) // step + 1)


@contextlib.contextmanager
def of_any_extents() -> Iterator[None]:
    """Within it torch infers shapes of pooling without a question about dynamic extents."""
    theirs = getattr(metas, _NAME, None)
    if theirs is None:
        yield
        return

    def shape(size: Any, kernel: Any, start: Any, end: Any, step: Any, gap: Any, ceil_mode: bool) -> Any:
        if isinstance(size, int):
            return theirs(size, kernel, start, end, step, gap, ceil_mode)
        return windows(size, gap * (kernel - 1) + 1, step, start, end, ceil_mode)

    with contextlib.ExitStack() as stack:
        replace(stack, metas, _NAME, shape)
        yield
