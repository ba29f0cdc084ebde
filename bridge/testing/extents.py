"""Which extents of a call may be others, found by tracing it once with a symbol for every extent.

Symbols that the reference requires to be equal become one; an extent that it turns into a number becomes that number.
"""

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sympy
import torch
from torch import Tensor
from torch._dynamo.source import ConstantSource
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from bridge.core import libraries
from bridge.core.op import Op
from bridge.errors import OpInputError
from bridge.testing.arguments import differentiable, outputs_of
from bridge.testing.reference import traced

Axis = tuple[int, int]  # the index of a tensor among the op's, and its dimension
Shapes = list[tuple[int, ...] | None]
REFUSALS = (OpInputError, RuntimeError, ValueError)  # what an op may raise of shapes that it does not take
_MOST_ELEMENTS = 1 << 16


@dataclass
class Extents:
    """The extents of the tensors of one call, as its reference relates them.

    tensors: None where an optional one is absent. axes: what each extent is, in symbols. values: of the symbols in the
    call.
    """

    op: Op
    tensors: list[Tensor | None]
    attributes: dict[str, Any]
    axes: dict[Axis, sympy.Expr]
    values: dict[sympy.Symbol, int]

    @cached_property
    def symbols(self) -> list[sympy.Symbol]:
        """Those that other extents follow from, in the order of the tensors."""
        used = [symbol for expression in self.axes.values() for symbol in sorted(expression.free_symbols, key=str)]
        return list(dict.fromkeys(used))

    @property
    def shapes(self) -> Shapes:
        """Of the call."""
        return [None if tensor is None else tuple(tensor.shape) for tensor in self.tensors]

    def at(self, values: Mapping[sympy.Symbol, int]) -> Shapes | None:
        """The shapes where some symbols have other values; None where an extent would be no whole number."""
        full = {**self.values, **values}
        extents = {axis: expression.xreplace(_integers(full)) for axis, expression in self.axes.items()}
        if any(not extent.is_Integer or extent < 0 for extent in extents.values()):
            return None
        return self.with_extents({axis: int(extent) for axis, extent in extents.items()})

    def with_extents(self, extents: Mapping[Axis, int]) -> Shapes:
        """The shapes of the call with other extents at some axes."""
        return [
            shape and tuple(extents.get((index, axis), extent) for axis, extent in enumerate(shape))
            for index, shape in enumerate(self.shapes)
        ]

    def outputs(self, shapes: Shapes) -> list[tuple[int, ...]]:
        """The shapes of the outputs for those of the tensors, by the reference, which raises where it refuses them."""
        pairs = zip(self.tensors, shapes, strict=True)
        empty = [None if t is None or s is None else torch.empty(s, dtype=t.dtype, device="meta") for t, s in pairs]
        return [tuple(output.shape) for output in traced(self.op, empty, self.attributes)]

    def takes(self, shapes: Shapes) -> bool:
        """Whether the reference takes tensors of these shapes."""
        try:
            self.outputs(shapes)
        except REFUSALS:
            return False
        return True

    def takes_alone(self, symbol: sympy.Symbol, value: int) -> bool:
        """Whether a symbol is no part of an expression, and the reference takes that value of it alone."""
        bare = all(each.is_Symbol or symbol not in each.free_symbols for each in self.axes.values())
        shapes = self.at({symbol: value})
        return bare and shapes is not None and self.takes(shapes)

    def random(self, shapes: Shapes) -> list[Tensor | None] | None:
        """Tensors of these shapes; None where values matter, for there are integers, or they would be large."""
        present = [tensor for tensor in self.tensors if tensor is not None]
        sizes = [torch.Size(shape).numel() for shape in shapes if shape is not None]
        if not all(map(differentiable, present)) or max(sizes, default=0) > _MOST_ELEMENTS:
            return None
        pairs = zip(self.tensors, shapes, strict=True)
        g = torch.Generator().manual_seed(0)
        return [None if t is None or s is None else torch.randn(s, generator=g).to(t.dtype) for t, s in pairs]


def extents_of(op: Op, args: Sequence[Any], kwargs: dict[str, Any]) -> Extents:
    """What is known of the extents of a call. An exception of the reference's: it cannot be traced."""
    tensors, attributes = op.bind(args, kwargs)
    env = ShapeEnv(duck_shape=False, specialize_zero_one=False)
    with torch._subclasses.FakeTensorMode(shape_env=env, allow_non_fake_inputs=False) as mode:
        fakes = [None if t is None else _symbolic(mode, t, name) for name, t in zip(op.tensors, tensors, strict=True)]
        outputs_of(op.overload(*fakes, *attributes.values()))
    axes = {
        (index, axis): _expression(extent)
        for index, fake in enumerate(fakes)
        if fake is not None
        for axis, extent in enumerate(fake.shape)
    }
    symbols = {symbol for expression in axes.values() for symbol in expression.free_symbols}
    # torch 2.11 gave the table another name.
    hints = env.backed_var_to_val if hasattr(env, "backed_var_to_val") else env.var_to_val
    return Extents(op, tensors, attributes, axes, {symbol: int(hints[symbol]) for symbol in symbols})


def check_extents(op: Op, *args: Any, **kwargs: Any) -> None:
    """One call at other extents, of 0 and odd ones among them: both shape rules agree, and the reference computes them.

    Extents that the reference requires to be equal change together. Shapes that it refuses (with an OpInputError, or a
    RuntimeError or ValueError of torch's) are left out.

    Raises:
        AssertionError: the shape rule of the kernel gives other shapes or refuses them, a call gives other shapes than
            a trace, or the reference fails in another way.
    """
    extents = extents_of(op, args, kwargs)
    for shapes in _variations(extents):
        what = ", ".join(f"{name} {list(s)}" for name, s in zip(op.tensors, shapes, strict=True) if s is not None)
        try:
            expected = extents.outputs(shapes)
        except REFUSALS:
            continue
        except Exception as error:
            raise AssertionError(
                f"{what}: the reference raises {type(error).__name__}: {error}; compute it, or raise an OpInputError"
            ) from error
        if op.counted:
            continue
        _compare_rules(extents, shapes, expected, what)
        _compare_call(extents, shapes, expected, what)


def check_open_axes(op: Op, *args: Any, open_axes: Mapping[int, Collection[int]] | None = None, **kwargs: Any) -> None:
    """A trace of one call holds for every extent that the call could have as well.

    A reference that makes a number of an extent, as ``range(x.shape[0])`` does, fixes it in every program and engine.

    Args:
        open_axes: the axes that a model may leave open, by the index of the tensor; None: all. Extents of 0 and 1 are
            left out, for torch treats them specially.
    Raises:
        AssertionError: an extent is fixed, and the reference takes another there; the message names the axis.
    """
    extents = extents_of(op, args, kwargs)
    fixed = {axis: int(e) for axis, e in extents.axes.items() if e.is_Integer and int(e) > 1}
    if open_axes is not None:
        fixed = {(index, axis): e for (index, axis), e in fixed.items() if axis in open_axes.get(index, ())}
    for axis, extent in fixed.items():
        together = {other: extent + 1 for other, same in fixed.items() if same == extent}
        for changed in ({axis: extent + 1}, together):
            if extents.takes(extents.with_extents(changed)):
                name = op.tensors[axis[0]]
                raise AssertionError(
                    f"a trace fixes axis {axis[1]} of {name} at {extent}, and the reference takes {extent + 1} too: it "
                    "makes a number of the extent, as range(), int(), math functions and a list of that length do"
                )


def _variations(extents: Extents) -> Iterator[Shapes]:
    """The shapes with one symbol, and with all, at 0, 1, one more, and an odd number."""
    other: list[Callable[[int], int]] = [lambda _: 0, lambda _: 1, lambda e: e + 1, lambda e: 2 * e + 1]
    groups = [[symbol] for symbol in extents.symbols] + ([extents.symbols] if len(extents.symbols) > 1 else [])
    seen = [extents.shapes]
    for group, change in itertools.product(groups, other):
        shapes = extents.at({symbol: change(extents.values[symbol]) for symbol in group})
        if shapes is not None and shapes not in seen:
            seen.append(shapes)
            yield shapes


def _compare_rules(extents: Extents, shapes: Shapes, expected: list[tuple[int, ...]], what: str) -> None:
    op = extents.op
    if not op.library.has_plugin(op.local_name):
        return
    try:
        inferred = libraries.infer_shapes(op, shapes, extents.attributes)
    except OpInputError as error:
        raise AssertionError(
            f"{what}: the shape rule in C++ refuses them, and the reference gives {expected}: {error}"
        ) from error
    assert inferred == expected, f"{what}: shapes {inferred} by the rule in C++, {expected} by the reference"


def _compare_call(extents: Extents, shapes: Shapes, expected: list[tuple[int, ...]], what: str) -> None:
    tensors = extents.random(shapes)
    if tensors is None:
        return
    try:
        outputs = outputs_of(extents.op.overload(*tensors, *extents.attributes.values()))
    except OpInputError:
        return  # of values
    except Exception as error:
        raise AssertionError(f"{what}: a call raises {type(error).__name__}: {error}, and a trace does not") from error
    actual = [tuple(output.shape) for output in outputs]
    assert actual == expected, f"{what}: a call gives {actual}, a trace {expected}"


def _symbolic(mode: Any, tensor: Tensor, name: str) -> Any:
    """A fake tensor with a symbol for each extent."""
    context: Any = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC] * tensor.dim())
    return mode.from_tensor(tensor.contiguous(), symbolic_context=context, source=ConstantSource(name))


def _expression(extent: Any) -> sympy.Expr:
    return extent.node.expr if isinstance(extent, torch.SymInt) else sympy.Integer(extent)


def _integers(values: Mapping[sympy.Symbol, int]) -> dict[sympy.Symbol, sympy.Integer]:
    return {symbol: sympy.Integer(value) for symbol, value in values.items()}
