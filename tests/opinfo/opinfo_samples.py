"""Small models of one operator call each, from the sample inputs that torch keeps for the tests of its operators."""

import importlib.util
import sys
import types
import unittest
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

# Their results are random, unset, or a property of the tensor object; or they need another device.
_LEFT_OUT = ("empty", "new_empty", "jiterator", "rand", "normal", "resize_", "hash_tensor", "to_sparse", "item")
# Of equal values any may come first: where in the arguments after the tensor the dimension stands along which
# indices, the last of the results, are counted.
_ANY_ORDER = {"argsort": 0, "sort": 0, "topk": 1, "kthvalue": 1, "median": 0, "nanmedian": 0}
# Of values in order, or written to no place twice, or lengths that add up: larger samples repeat their elements.
_ONCE = ("_segment_reduce.lengths", "bucketize", "searchsorted", "scatter", "index_copy", "index_fill", "put")
_UNPOOLED = "nn.functional.max_unpool"
_PER_DTYPE = {torch.float32: 8, torch.int64: 3, torch.float16: 1, torch.bool: 1}


def operators() -> list[Any]:
    """torch's OpInfo entries, by name, without those that have no result to compare."""
    # Imported there for the base class of torch's own tests.
    if "expecttest" not in sys.modules and importlib.util.find_spec("expecttest") is None:
        stand_in = types.ModuleType("expecttest")
        stand_in.TestCase = unittest.TestCase  # type: ignore[attr-defined]
        sys.modules["expecttest"] = stand_in
    from torch.testing._internal.common_methods_invocations import op_db

    return sorted((op for op in op_db if not op.full_name.startswith(_LEFT_OUT)), key=lambda op: op.full_name)


@dataclass(frozen=True)
class Case:
    """One call of an operator: which of its tensors are inputs of the model, and whether their extents vary."""

    operator: str
    dtype: torch.dtype
    index: int
    constants: bool  # the tensors beyond the first are weights
    dynamic: bool
    model: "Call"
    inputs: tuple[Tensor, ...]
    places: tuple[int, int] | None = None  # a leaf of the result that holds indices of values in any order; their dim

    @property
    def name(self) -> str:
        kind = ("dynamic" if self.dynamic else "static") + (" weights" if self.constants else "")
        return f"{self.operator} {str(self.dtype).removeprefix('torch.')} #{self.index} {kind}"

    def promised(self, inputs: Sequence[Tensor], place: int, leaf: Any) -> Any:
        """Of a leaf of the result what PyTorch promises: of indices, the values there, and that no two are equal."""
        x = inputs[0]
        if self.places is None or place != self.places[0] or not x.dim():
            return leaf
        dim = self.places[1]
        places = leaf if leaf.dim() == x.dim() else leaf.unsqueeze(dim)
        assert bool(((places >= 0) & (places < x.shape[dim])).all()), f"an index outside {x.shape[dim]} elements"
        once = bool((places.sort(dim).values.diff(dim=dim) != 0).all())
        return x.gather(dim, places), leaf.dtype, once


class Call(torch.nn.Module):
    """Calls an operator; its tensors are arguments, or buffers from the second on. Numbers are fixed."""

    def __init__(self, function: Callable[..., Any], arguments: Any, constants: bool) -> None:
        super().__init__()
        self._function = [function]  # in a list: it may be a bound method
        leaves, self._spec = pytree.tree_flatten(arguments)
        self._leaves: list[Any] = []
        self._inputs: list[int] = []
        for place, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor) and self._inputs and constants:
                self.register_buffer(f"tensor{place}", leaf)
                leaf = None
            elif isinstance(leaf, Tensor):
                self._inputs.append(place)
                leaf = None
            self._leaves.append(leaf)

    def forward(self, *tensors: Tensor) -> Any:
        given = dict(zip(self._inputs, tensors, strict=True))
        leaves = [given.get(place, leaf) for place, leaf in enumerate(self._leaves)]
        leaves = [getattr(self, f"tensor{place}", leaf) for place, leaf in enumerate(leaves)]
        args, kwargs = pytree.tree_unflatten(leaves, self._spec)
        return plain(self._function[0](*args, **kwargs))


def plain(value: Any) -> Any:
    """Named tuples, which no engine file can hold, as tuples."""
    if isinstance(value, (tuple, list)):
        return tuple(map(plain, value))
    return value


def cases(op: Any, most: int | None = None, dtypes: Sequence[torch.dtype] | None = None) -> Iterator[Case]:
    """The cases of an operator. most: of samples of a dtype, spread over all that there are."""
    supported = op.supported_dtypes("cpu")
    for dtype in dtypes or _PER_DTYPE:
        if dtype not in supported:
            continue
        torch.manual_seed(0)
        samples = list(_samples(op, dtype))
        count = min(most or _PER_DTYPE[dtype], len(samples))
        for place in range(count):
            index = place * len(samples) // count
            if op.full_name.startswith(_UNPOOLED) and _writes_twice(samples[index]):
                continue
            for case in _of_sample(op, dtype, index, samples[index]):
                if not (case.dynamic and op.full_name in _ONCE):
                    yield case


def _writes_twice(sample: Any) -> bool:
    """Whether places of maxima are equal, for which torch's documentation promises no result."""
    places = sample.args[0].sort(-1).values if sample.args[0].dim() == 1 else sample.args[0].flatten(1).sort(-1).values
    return bool((places[..., 1:] == places[..., :-1]).any())


def _samples(op: Any, dtype: torch.dtype) -> Iterator[Any]:
    try:
        yield from op.sample_inputs("cpu", dtype, requires_grad=False)
    except (RuntimeError, ValueError, NotImplementedError, AssertionError):
        return  # some generators are wrong for dtypes that they are asked for seldom


def _of_sample(op: Any, dtype: torch.dtype, index: int, sample: Any) -> Iterator[Case]:
    arguments = ((sample.input, *sample.args), dict(sample.kwargs))
    leaves = pytree.tree_leaves(arguments)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if not tensors or any(tensor.layout != torch.strided for tensor in tensors):
        return
    arguments = pytree.tree_map(_own, arguments)
    for constants in (False, True) if len(tensors) > 1 else (False,):
        model = Call(op.op, arguments, constants).eval()
        inputs = tuple(_own(tensor) for tensor in (tensors[:1] if constants else tensors))
        if not _repeats(model, inputs):
            return
        for dynamic in (False, True):
            if not dynamic or any(tensor.dim() and tensor.shape[0] > 1 for tensor in inputs):
                yield Case(op.full_name, dtype, index, constants, dynamic, model, inputs, _places(op.full_name, sample))


def _places(name: str, sample: Any) -> tuple[int, int] | None:
    """Case.places of an operator."""
    if name not in _ANY_ORDER or sample.kwargs.get("stable"):
        return None
    given = sample.args[_ANY_ORDER[name] :]
    if name.endswith("median") and not given and "dim" not in sample.kwargs:  # of all elements: no index
        return None
    return int(name != "argsort"), given[0] if given else sample.kwargs.get("dim", -1)


def _own(leaf: Any) -> Any:
    return leaf.detach().clone(memory_format=torch.contiguous_format) if isinstance(leaf, Tensor) else leaf


def _repeats(model: Call, inputs: Sequence[Tensor]) -> bool:
    """PyTorch itself gives a result, and the same twice."""
    try:
        torch.manual_seed(1)
        first = model(*map(_own, inputs))
        torch.manual_seed(2)
        second = model(*map(_own, inputs))
        torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)
    except Exception:  # whatever PyTorch says of its own sample: there is nothing to compare with
        return False
    return any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(first))


# Which dimensions vary: the first ones, and every other of the same size, since whether they are one or happen to be
# equal only the operator knows; the first of the first input, and first ones that equal it; that of the first alone.
MARKS = ("all", "firsts", "first")
LASTS = "lasts"  # for a sweep of its own: the last dimension of the first input, and every other of the same size


def dimensions(case: Case, marks: str) -> list[dict[int, str]]:
    """Of each input: axis → name of its dynamic dimension, by one of MARKS or LASTS."""
    if marks == LASTS:
        last = next(tensor.shape[-1] for tensor in case.inputs if tensor.dim())
        return [{axis: f"n{last}" for axis, n in enumerate(tensor.shape) if n == last > 1} for tensor in case.inputs]
    firsts = [tensor.shape[0] for tensor in case.inputs if tensor.dim() and tensor.shape[0] > 1]
    varying = set(firsts if marks == "all" else firsts[:1])
    dims = [
        {axis: f"n{extent}" for axis, extent in enumerate(tensor.shape) if extent in varying} for tensor in case.inputs
    ]
    if marks != "all":
        dims = [{axis: name for axis, name in axes.items() if axis == 0} for axes in dims]
    if marks == "first":
        chosen = next(place for place, axes in enumerate(dims) if axes)
        dims = [axes if place == chosen else {} for place, axes in enumerate(dims)]
    return dims


def grown(case: Case, dims: Sequence[dict[int, str]], grow: Callable[[int], int]) -> tuple[Tensor, ...] | None:
    """The inputs with larger extents, their elements repeated; None where PyTorch takes no such extents."""
    results = []
    for tensor, axes in zip(case.inputs, dims, strict=True):
        for axis in axes:
            extent = tensor.shape[axis]
            tensor = tensor.index_select(axis, torch.arange(grow(extent)) % extent)
        results.append(tensor)
    return tuple(results) if _repeats(case.model, results) else None
