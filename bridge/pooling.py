"""Pooling of maps with dynamic extents.

torch finds the extent of the result by a division that asks whether there is a remainder, to round down where C would
not; Python's does so of itself. The answer would be a condition on the map, such as an even height.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import _meta_registrations as metas

from bridge.tensorrt.patches import replace

_NAME = "div_rtn"  # torch 2.11's; a version that lacks it is left as it is


@contextlib.contextmanager
def of_any_map() -> Iterator[None]:
    """Within it torch divides extents of pooled maps without a question about them."""
    with contextlib.ExitStack() as stack:
        if hasattr(metas, _NAME):
            replace(stack, metas, _NAME, _floor_divide)
        yield


def _floor_divide(x: Any, y: Any) -> Any:
    return x // y
