"""What the tests know of a public kernel, and the table of all of them."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

ROWS, WIDTH = Dim("rows", min=1, max=64), Dim("width", min=1, max=300)
BATCH, LENGTH = Dim("batch", min=1, max=8), Dim("length", min=1, max=200)
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class PublicKernel:
    """An op around a public kernel, and how it is called.

    inputs: makes tensors on the CPU, of a dtype. dynamic: for each input its dynamic axes.
    attributes: arguments that are no tensors. reference: the same in plain torch. fake: its shapes and dtypes, where
    they cannot be traced. refusal: part of bridge's message where a plugin is impossible. tolerance: absolute and
    relative, for float32.
    """

    op: Callable[..., Any]
    inputs: Callable[[torch.dtype], tuple[Tensor, ...]]
    dynamic: tuple[Mapping[int, Any] | None, ...]
    reference: Callable[..., Any]
    attributes: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    fake: Callable[..., Any] | None = None
    refusal: str | None = None
    dtypes: tuple[torch.dtype, ...] = FLOATS
    tolerance: float = 1e-4


KERNELS: dict[str, Callable[[], PublicKernel]] = {}
DISTRIBUTIONS: dict[str, str] = {}  # kernel → what to install


def public(module: str, distribution: str) -> Callable[[Callable[[], PublicKernel]], Callable[[], PublicKernel]]:
    """Adds a kernel to the table; a test that asks for it is skipped where its package is missing."""

    def add(make: Callable[[], PublicKernel]) -> Callable[[], PublicKernel]:
        name = f"{module}.{make.__name__}"

        @functools.cache
        def made() -> PublicKernel:
            if find_spec(module) is None:
                pytest.skip(f"needs {distribution}: pip install --no-deps {distribution}")
            kernel = make()
            # torch traces the body otherwise, which launches kernels as if there were a GPU.
            kernel.op.register_fake(kernel.fake or kernel.reference)
            return kernel

        KERNELS[name] = made
        DISTRIBUTIONS[name] = distribution
        return made

    return add


class Calls(nn.Module):
    """A model that is one call of a public kernel."""

    def __init__(self, kernel: PublicKernel) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, *inputs: Tensor) -> Any:
        return self.kernel.op(*inputs, **self.kernel.attributes)


def resized(kernel: PublicKernel, dtype: torch.dtype, size_of: Callable[[Any], int]) -> tuple[Tensor, ...]:
    """Inputs of other sizes: the kernel's own, repeated and cut along dynamic axes. size_of: of a Dim."""
    dynamic = [sizes or {} for sizes in kernel.dynamic]
    return tuple(
        functools.reduce(lambda x, axis: _cut(x, axis[0], _extent(axis[1], size_of)), sizes.items(), tensor)
        for tensor, sizes in zip(kernel.inputs(dtype), dynamic, strict=True)
    )


def _extent(dim: Any, size_of: Callable[[Any], int]) -> int:
    """Of a Dim, or of a multiple of one."""
    return dim.fn(size_of(dim.root)) if hasattr(dim, "root") else size_of(dim)


def _cut(x: Tensor, axis: int, size: int) -> Tensor:
    times = [1] * x.dim()
    times[axis] = -(-size // x.shape[axis])
    return x.repeat(times).narrow(axis, 0, size).contiguous()


def randn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """The same numbers in each call and each dtype."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
