"""Pooling of maps with dynamic extents, without guards.

torch tests whether the stride divides a dynamic extent, and with ceil_mode whether the last window starts beyond the
map: the program would hold for even extents alone. The number of windows has a formula without these branches.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import _meta_registrations as metas

from bridge.base.patches import replaced


def windows(extent: Any, span: Any, step: Any, start: Any, end: Any, ceil_mode: bool) -> Any:
    """How many windows, that reach over `span` elements each, PyTorch places on an axis with padding at both ends.

    With ceil_mode the last one may reach over the end, but starts within the map or the padding before it.
    """
    left = extent + start + end - span
    if not ceil_mode:
        return left // step + 1
    count = (left + step - 1) // step + 1
    return count if end + step <= span else torch.sym_min(count, (extent + start - 1) // step + 1)


def pooling_without_guards() -> AbstractContextManager[None]:
    """Within it torch infers the shapes of pooling without guards on dynamic extents."""
    return replaced(metas, "pooling_output_shape_pad_lr", _by_formula)


def _by_formula(original: Callable[..., Any]) -> Callable[..., Any]:
    def shape(size: Any, kernel: Any, start: Any, end: Any, step: Any, gap: Any, ceil_mode: bool) -> Any:
        if isinstance(size, int):
            return original(size, kernel, start, end, step, gap, ceil_mode)
        return windows(size, gap * (kernel - 1) + 1, step, start, end, ceil_mode)

    return shape
