"""torch functions with number arguments, where torch.export would specialise a dynamic extent."""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class SymbolicArguments(TorchFunctionMode):
    """Within it such a function is written with other operators where an argument is a dynamic extent."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        written_out = _WRITTEN_OUT.get(func)
        if written_out is not None and _symbolic(args, kwargs):
            return written_out(*args, **kwargs)
        return func(*args, **kwargs)


def _linspace(start: Any, end: Any, steps: Any, *, out: None = None, dtype: Any = None, **options: Any) -> Any:
    """Computed from both ends, as torch does, so that both end points are exact."""
    dtype = dtype or torch.get_default_dtype()
    options.pop("layout", None)
    places = torch.arange(steps, dtype=dtype, **options)
    step = (end - start) / torch.sym_max(steps - 1, 1)
    return torch.where(places < steps / 2, start + step * places, end - step * ((steps - 1) - places))


def _symbolic(*values: Any) -> bool:
    return any(isinstance(value, (torch.SymInt, torch.SymFloat)) for value in torch.utils._pytree.tree_leaves(values))


_WRITTEN_OUT = {torch.linspace: _linspace}
