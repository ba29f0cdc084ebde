"""Extents that are products or sums of three and more extents.

Where torch has lost how such an extent was computed, it computes it anew from its expression, with operators that take
two numbers: "mul expected 2 arguments, got 3". Block masks of FlexAttention have such strides. torch 2.11 does.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import sympy
from torch.fx.experimental import proxy_tensor

from bridge.base.patches import replaced


def extents_in_pairs() -> AbstractContextManager[None]:
    """Within it torch multiplies and adds extents two at a time."""
    return replaced(proxy_tensor, "_build_proxy_for_sym_expr", _in_pairs)


def _in_pairs(original: Callable[..., Any]) -> Callable[..., Any]:
    def build(tracer: Any, expression: Any, *args: Any, **kwargs: Any) -> Any:
        known = tracer.sympy_expr_tracker.get(expression) is not None
        if not known and isinstance(expression, (sympy.Mul, sympy.Add)) and len(expression.args) > 2:
            first, *rest = expression.args
            expression = expression.func(first, expression.func(*rest), evaluate=False)
        return original(tracer, expression, *args, **kwargs)

    return build
