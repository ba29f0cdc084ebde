"""A model of one call, to export or to compile a function by itself."""

from collections.abc import Callable, Mapping
from typing import Any

import torch


class OneCall(torch.nn.Module):
    """Calls a function with what it is given; keywords are fixed."""

    def __init__(self, function: Callable[..., Any], keywords: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.function = function
        self.keywords = dict(keywords or {})

    def forward(self, *values: Any) -> Any:
        """The function's results."""
        return self.function(*values, **self.keywords)
