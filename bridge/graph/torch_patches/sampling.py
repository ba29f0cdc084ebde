"""The shape of a sampled map, without sampling it.

torch has no rule for the shape of grid_sampler_2d where an extent is dynamic: it decomposes each call, into more than
100 operators on symbolic extents, wherever a graph is traced. That took a sixth of the time to capture a DETR with
deformable attention.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table
from torch._subclasses import fake_tensor

from bridge.base.patches import replace

_RULES = "get_fast_op_impls"  # asked before the decompositions; a version that lacks it is left unchanged
_SAMPLER = torch.ops.aten.grid_sampler_2d.default


@contextlib.contextmanager
def sampling_by_shapes() -> Iterator[None]:
    """Within it torch infers the shape of a sampled map from the shapes of the map and of the grid."""
    rules: dict[Any, Any] = getattr(fake_tensor, _RULES, dict)()
    with contextlib.ExitStack() as stack:
        if rules:
            extended = {**rules, _SAMPLER: _sampled}
            replace(stack, fake_tensor, _RULES, lambda: extended)
        yield


def _sampled(mode: fake_tensor.FakeTensorMode, x: Tensor, grid: Tensor, *how: Any) -> Any:
    """x: [N, C, H, W]; grid: [N, height, width, 2]. The result: [N, C, height, width]."""
    with mode:
        if (x.dim(), grid.dim(), x.dtype) != (4, 4, grid.dtype):
            return decomposition_table[_SAMPLER](x, grid, *how)
        torch._check(x.shape[0] == grid.shape[0], lambda: f"a grid {grid.shape} cannot sample a map {x.shape}")
        torch._check(grid.shape[3] == 2, lambda: f"a grid {grid.shape} has not 2 coordinates for each position")
        return x.new_empty((*x.shape[:2], *grid.shape[1:3]))
