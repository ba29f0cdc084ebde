"""Fake tensors with symbolic extents, and what torch says of them in an instance's own symbols.

All that bridge's tracing knows of ShapeEnv's private side is here. Known to work with torch 2.11 and 2.14.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sympy
import torch
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv
from torch.utils._sympy.interp import sympy_interp
from torch.utils._sympy.reference import PythonReferenceAnalysis
from torch.utils._sympy.value_ranges import ValueRanges, bound_sympy

from bridge.errors import UnsupportedOpError
from bridge.generate.program import Extent, Symbol, TensorType
from bridge.generate.without_gpu import stand_in_gpu
from bridge.graph.symbolic import size_oblivious


class Environment:
    """Symbols at one example. Expressions that leave it are over the instance's symbols."""

    def __init__(self, symbols: Sequence[Symbol], example: Mapping[sympy.Symbol, int]) -> None:
        self._env = ShapeEnv(specialize_zero_one=False, duck_shape=False)
        self._mode = FakeTensorMode(shape_env=self._env, allow_non_fake_inputs=True)
        self._own: dict[sympy.Symbol, sympy.Symbol] = {}
        self._integers: dict[sympy.Symbol, torch.SymInt] = {}
        self._symbols = [dataclasses.replace(each, example=example[each.symbol]) for each in symbols]
        self._more: list[sympy.Basic] = []
        self._ranges = {each.symbol: ValueRanges(each.low, each.high) for each in symbols}
        for each in symbols:
            self._add(each, example[each.symbol])

    def _add(self, symbol: Symbol, value: int) -> None:
        source = ConstantSource(f"{symbol.symbol}")
        inner = self._env.create_symbol(value, source=source, dynamic_dim=DimDynamic.DYNAMIC)
        self._env.var_to_range[inner] = ValueRanges(symbol.low, symbol.high)
        self._integers[symbol.symbol] = self._env.create_symintnode(inner, hint=value, source=source)
        self._own[inner] = symbol.symbol

    @contextlib.contextmanager
    def tracing(self) -> Iterator[None]:
        """The context in which fake tensors are made and used, on a GPU that need not be there."""
        with stand_in_gpu(), size_oblivious(True), self._mode:
            yield

    def tensor(self, kind: TensorType) -> torch.Tensor:
        """A contiguous fake tensor on a GPU."""
        return torch.empty([self.integer(extent) for extent in kind.shape], dtype=kind.dtype, device="cuda:0")

    def integer(self, extent: Extent) -> Any:
        """A number, or torch's symbolic integer of an expression."""
        return evaluate(extent, self._integers)

    def expression(self, value: Any) -> Extent:
        """What an int or SymInt is, over the instance's symbols. UnsupportedOpError: it depends on values."""
        if not isinstance(value, torch.SymInt):
            return int(value)
        found = value.node.expr.xreplace(self._own)
        if not found.free_symbols <= set(self._ranges):
            raise UnsupportedOpError(f"an extent, {value}, depends on values")
        return int(found) if found.is_Integer else found

    def number(self, value: Any) -> Extent | float:
        """As `expression`, of a float or SymFloat."""
        if not isinstance(value, torch.SymFloat):
            return float(value)
        found = value.node.expr.xreplace(self._own)
        if not found.free_symbols <= set(self._ranges):
            raise UnsupportedOpError(f"a number, {value}, depends on values")
        return float(found) if found.is_number else found

    def type_of(self, tensor: torch.Tensor) -> TensorType:
        """Of a tensor that is, or is going to be, contiguous."""
        return TensorType(tensor.dtype, tuple(self.expression(extent) for extent in tensor.shape))

    def bytes(self, tensor: torch.Tensor) -> Extent:
        """Of a contiguous tensor."""
        return self.expression(tensor.numel() * tensor.element_size())

    def limits(self, value: Extent) -> tuple[int, int]:
        """The least and the greatest that an expression can be; bounds that may be too wide, never too narrow."""
        if isinstance(value, int):
            return value, value
        found = bound_sympy(value, self._ranges)
        return int(found.lower), int(found.upper) if found.upper.is_Integer else 1 << 62

    def value(self, extent: Extent) -> int:
        """An expression at the example."""
        if isinstance(extent, int):
            return extent
        hints = {symbol: integer.node.hint for symbol, integer in self._integers.items()}
        return int(extent.xreplace(hints))

    def add_conditions(self, conditions: Sequence[sympy.Basic]) -> None:
        """Conditions that another trace at the example found."""
        self._more += conditions

    def symbols_at_example(self) -> list[Symbol]:
        """The symbols, with this example for theirs."""
        return list(self._symbols)

    def conditions(self) -> tuple[sympy.Basic, ...]:
        """The guards so far, in the order in which they were added."""
        found = [guard.expr.xreplace(self._own) for guard in self._env.guards] + self._more
        return tuple(dict.fromkeys(each for each in found if each is not sympy.true))


def evaluate(extent: Extent, integers: Mapping[sympy.Symbol, Any]) -> Any:
    """An expression of symbols, computed with ints or torch's symbolic integers."""
    if isinstance(extent, (int, sympy.Integer)):
        return int(extent)
    return sympy_interp(_Python, dict(integers), extent)


class _Python(PythonReferenceAnalysis):
    """With what torch lacks there: true division of integers."""

    @staticmethod
    def int_truediv(a: Any, b: Any) -> Any:
        return a / b
