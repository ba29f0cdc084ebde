"""What `bridge bench --generated` measures: calls of operators that nobody wrote a plugin for."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim

from bridge.base.text import listing
from bridge.bench.generated import formulas
from bridge.bench.workload import DTYPES
from bridge.errors import UnknownNameError

TRITON, INDUCTOR = "triton", "inductor"
TUNED = "tuned"
"""The engine after bridge.tune."""
_MOST = 4  # times the extent that is measured: the profile's greatest


@dataclass(frozen=True)
class Workload:
    """A call of an operator.

    function: in plain torch. operator: what the model calls. kernels: whose, TRITON or INDUCTOR. shapes: of the inputs;
    batched: of how many of these, the first ones, the first extent is dynamic.
    """

    name: str
    dtype: str
    function: Callable[..., Tensor]
    operator: Callable[..., Tensor]
    kernels: str
    shapes: tuple[tuple[int, ...], ...]
    batched: int

    def inputs(self, device: str) -> tuple[Tensor, ...]:
        """Random tensors."""
        random = torch.Generator(device).manual_seed(0)
        return tuple(
            torch.randn(shape, generator=random, device=device).to(DTYPES[self.dtype]) for shape in self.shapes
        )

    def dynamic_shapes(self) -> tuple[Any, ...]:
        """torch.export's, from 1 to four times the batch."""
        batch = Dim("batch", min=1, max=_MOST * self.shapes[0][0])
        return tuple({0: batch} if place < self.batched else None for place in range(len(self.shapes)))


def workloads() -> Iterator[Workload]:
    """Norms, gates, losses and more, at the sizes of published models."""
    from bridge.bench.generated import triton_ops

    for name, rows in (("RMS norm", 4096), ("RMS norm, 5 rows", 5)):
        shapes = ((rows, 4096), (4096,))
        yield Workload(name, "float16", formulas.rms_norm, triton_ops.rms_norm, TRITON, shapes, 1)
    shapes = ((4096, 4096), (4096,))
    yield Workload("RMS norm in two", "bfloat16", formulas.rms_norm, triton_ops.rms_norm_in_two, TRITON, shapes, 1)
    for name, dtype, function, given, batched in _PLAIN:
        yield Workload(name, dtype, function, _operator(function), INDUCTOR, given, batched)


_PLAIN: tuple[tuple[str, str, Callable[..., Tensor], tuple[tuple[int, ...], ...], int], ...] = (
    ("RMS norm", "bfloat16", formulas.rms_norm, ((4096, 4096), (4096,)), 1),
    ("SwiGLU", "bfloat16", formulas.swiglu, ((4096, 22016),), 1),
    ("layer norm, GELU", "float16", formulas.layer_norm_gelu, ((16, 1024, 96), (96,), (96,)), 1),
    ("group norm, SiLU", "float16", formulas.group_norm_silu, ((8, 320, 64, 64), (320,), (320,)), 1),
    ("focal loss", "float32", formulas.focal_loss, ((16, 16384), (16, 16384)), 2),
    ("cost volume", "float16", formulas.cost_volume, ((4, 32, 96, 160), (4, 32, 96, 160)), 2),
    ("cumulative sum", "float32", formulas.cumulative_sum, ((64, 4096),), 1),
    ("windowed softmax", "float16", formulas.windowed_softmax, ((16, 1024, 1024),), 1),
    ("softmax of a product", "float16", formulas.attention_weights, ((16, 512, 64), (16, 64, 512)), 2),
)


def _operator(function: Callable[..., Tensor]) -> Any:
    """The custom operator of a function, defined as a package would."""
    name = f"bridge_bench::plain_{function.__name__}"
    if name not in _OPERATORS:
        _OPERATORS[name] = torch.library.custom_op(name, function, mutates_args=())
        _OPERATORS[name].register_fake(function)
    return _OPERATORS[name]


_OPERATORS: dict[str, Any] = {}


def select(texts: Sequence[str]) -> list[Workload]:
    """The workloads whose names hold one of these texts; all if there are none. UnknownNameError: no name holds one."""
    known = list(workloads())
    for text in texts:
        if not any(text in each.name for each in known):
            names = listing(dict.fromkeys(each.name for each in known), text, "; ")
            raise UnknownNameError(f"no generated workload's name holds {text!r}; there are {names}")
    return [each for each in known if not texts or any(text in each.name for text in texts)]
