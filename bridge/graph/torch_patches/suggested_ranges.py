"""Dynamic extents whose half, or other part, has one value only.

torch.export suggests ranges for an extent's parts, such as 4 … 4 for the half of 7 … 8, and fails as it makes a Dim of
one value, whether there is anything to suggest or not. torch 2.11 and 2.14 do.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch.fx.experimental.symbolic_shapes import DimConstraints

from bridge.base.patches import replace

_NAME = "prettify_results"  # a version that lacks it is left unchanged
_FAULT = "Cannot create Dim with inconsistent"


@contextlib.contextmanager
def suggestions_cannot_fail() -> Iterator[None]:
    """Within it torch.export suggests nothing where it would fail over the suggestion."""
    original = getattr(DimConstraints, _NAME, None)
    if original is None:
        yield
        return

    def text(self: DimConstraints, *args: Any, **kwargs: Any) -> str:
        try:
            return str(original(self, *args, **kwargs))
        except AssertionError as error:
            if _FAULT not in str(error):
                raise
            return ""

    with contextlib.ExitStack() as stack:
        replace(stack, DimConstraints, _NAME, text)
        yield
