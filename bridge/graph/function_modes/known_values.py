"""Values that a model computes from what it holds, such as the windows of an image whose size it fixes.

torch.export does not follow the values of tensors: `torch.tensor([[1, 34, 46]]).tolist()` gives unknown numbers there,
and so does a buffer of strides. Loops, splits and branches fail on them. What depends on no input is known, though, and
is computed beside the trace.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.weak import WeakIdKeyDictionary

_MOST = 1 << 16  # elements of a tensor whose values are followed
_FACTORIES = {"arange", "full", "ones", "tensor", "zeros"}
# Those that take numbers after their first argument, and zero-dimensional tensors for them.
_OF_NUMBERS = {"__getitem__", "expand", "narrow", "pad", "repeat", "reshape", "roll", "select", "split", "view"}
_READS = {"__bool__", "__index__", "__int__", "item"}
_NUMBERS = {torch.int16, torch.int32, torch.int64}
# Functions of values and nothing else, which write to no tensor.
_PURE = {"__and__", "__eq__", "__floordiv__", "__ge__", "__gt__", "__invert__", "__le__", "__lt__", "__mod__"}
_PURE |= {"__ne__", "__or__", "__radd__", "__rfloordiv__", "__rmod__", "__rmul__", "__rsub__", "abs", "add", "all"}
_PURE |= {"amax", "amin", "any", "argsort", "bool", "cat", "ceil", "chunk", "clamp", "clone", "concat", "contiguous"}
_PURE |= {"cumsum", "detach", "diff", "div", "eq", "expand", "flatten", "flip", "float", "floor", "floor_divide"}
_PURE |= {"gather", "ge", "gt", "index_select", "int", "le", "logical_and", "logical_not", "logical_or", "long", "lt"}
_PURE |= {"max", "maximum", "meshgrid", "min", "minimum", "movedim", "mul", "multiply", "narrow", "ne", "neg", "pad"}
_PURE |= {"permute", "prod", "ravel", "remainder", "repeat", "reshape", "roll", "round", "select", "sort", "split"}
_PURE |= {"squeeze", "stack", "sub", "subtract", "sum", "tile", "to", "transpose", "true_divide", "unbind"}
_PURE |= {"unflatten", "unsqueeze", "view", "where"}
_FOLLOWED = {"__getitem__"} | _FACTORIES | _PURE
# After these a tensor may be written to, and nothing counts it.
_UNSEEN = {Tensor.data.__get__, Tensor.data.__set__, Tensor.set_}  # type: ignore[attr-defined]
# Those of which values give the result its shape.
_SHAPED_BY_VALUES = {"argwhere", "masked_select", "nonzero", "repeat_interleave", "unique", "unique_consecutive"}
# Those that write what their arguments say to the first one, and nothing random.
_WRITES = {"__setitem__", "copy_", "fill_", "fill_diagonal_", "index_add_", "index_copy_", "index_fill_", "index_put_"}
_WRITES |= {"masked_fill_", "scatter_", "scatter_add_", "zero_", "add_", "sub_", "mul_", "div_", "clamp_", "abs_"}
_WRITES |= {"__iadd__", "__isub__", "__imul__", "__ifloordiv__", "__idiv__", "__imod__", "__iand__", "__ior__"}


class KnownValues(TorchFunctionMode):
    """Within it numbers that are read from known tensors, and branches on them, are Python's.

    Known are small tensors that the model makes of numbers, or holds as buffers or attributes, and what it computes of
    these. Where known values give a result its shape (an index by a mask, `nonzero`, `unique`) it is a constant. All
    else is traced as without.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self._values = WeakIdKeyDictionary()  # by the tensor that is traced
        self._versions = _Versions()
        self._made: dict[int, Tensor] = {}  # values that are no views of what the model holds, by their memory
        self._ends = False  # whether something was written to, and who knows what
        self._buffers = _Buffers(model)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, _name(func)
        if torch._C._functorch.peek_interpreter_stack() is not None:  # within vmap a tensor stands for many
            self._ends = self._ends or _may_write(func, kwargs)
            return func(*args, **kwargs)
        if name == "__get__":  # shape and dtype, many times
            return self._property(func, args)
        self._see(func, args, kwargs)
        if _writes(name, kwargs):
            return self._write(func, args, kwargs)
        if kwargs.get("out") is not None:  # which may be what the model holds
            return func(*args, **kwargs)
        if name in _READS:
            value = self._value(args[0])
            return func(*args, **kwargs) if value is None or value.numel() != 1 else _apart(func, (value,), {})
        if name in _FACTORIES | _OF_NUMBERS:
            kept = 0 if name in _FACTORIES else 1
            args = (*args[:kept], *pytree.tree_map(self._number, args[kept:]))
        is_shaped = name in _SHAPED_BY_VALUES or (name == "__getitem__" and _has_mask(args[1]))
        known = self._known((args, kwargs)) if is_shaped or name in _FOLLOWED else None
        if known is None or not (name in _FACTORIES or _tensors(known)):
            return func(*args, **kwargs)
        return self._constant(func, args, kwargs, known) if is_shaped else self._with_value(func, args, kwargs, known)

    def _property(self, func: Any, args: Any) -> Any:
        """A property of a tensor, which may be a view of it."""
        result = func(*args)
        if isinstance(result, Tensor):
            self._see(func, args, {})
        return result

    def _see(self, func: Any, args: Any, kwargs: Any) -> None:
        """Notes what the model holds before a call may write to it, and what is written to unseen."""
        for tensor in _tensors((args, kwargs)):
            if self._any_value(tensor) is not None:
                self._versions.see(tensor)
                if _writes_unseen(func):
                    self._versions.forget(tensor)

    def _write(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The traced result of a call that writes; what is known is written to the values, too."""
        written = _tensors((args[:1], kwargs.get("out")))
        values = [self._value(tensor) for tensor in written]
        known = self._known((args, kwargs))
        traced = func(*args, **kwargs)
        if known is not None and all(value is not None and _memory(value) in self._made for value in values):
            _apart(func, *known)
            for tensor in written:
                self._versions.renew(tensor)
        return traced

    def _with_value(self, func: Any, args: Any, kwargs: Any, known: Any) -> Any:
        """The traced result, whose values are known as those of the call on known arguments."""
        traced = func(*args, **kwargs)
        tensors = _tensors(traced)
        if not tensors or not all(map(_is_followed, tensors)):
            return traced
        given = set(map(_memory, _tensors(known)))
        for tensor, value in zip(tensors, _tensors(_apart(func, *known)), strict=True):
            if _kind(tensor) == _kind(value):
                self._keep(tensor, value)
                if _memory(value) not in given:
                    self._made[_memory(value)] = value
        return traced

    def _keep(self, tensor: Tensor, value: Tensor) -> None:
        self._values[tensor] = value
        self._versions.see(tensor)

    def _constant(self, func: Any, args: Any, kwargs: Any, known: Any) -> Any:
        """The values of the call as constants of the graph."""
        result = _apart(func, *known)
        if not all(map(_is_followed, _tensors(result))):
            return func(*args, **kwargs)
        return pytree.tree_map_only(Tensor, self._as_constant, result)

    def _as_constant(self, value: Tensor) -> Tensor:
        numbers = _apart(Tensor.tolist, (value,), {})
        traced: Tensor = torch.tensor(numbers, dtype=value.dtype, device=value.device).reshape(value.shape)
        self._keep(traced, value)
        self._made[_memory(value)] = value
        return traced

    def _known(self, tree: Any) -> Any:
        """Arguments with values for tensors; None where one is not known."""
        if _is_symbolic(tree) or any(self._value(tensor) is None for tensor in _tensors(tree)):
            return None
        return pytree.tree_map_only(Tensor, self._value, tree)

    def _number(self, argument: Any) -> Any:
        """The number of a known tensor without dimensions; of a slice, one of such numbers; else the argument."""
        if isinstance(argument, slice):
            return slice(*map(self._number, (argument.start, argument.stop, argument.step)))
        if not isinstance(argument, Tensor) or argument.dim() or argument.dtype not in _NUMBERS:
            return argument
        value = self._value(argument)
        return argument if value is None else value.item()

    def _value(self, tensor: Any) -> Tensor | None:
        """What a tensor holds; None where it depends on an input, or may have been written to."""
        value = self._any_value(tensor)
        return None if value is None or self._ends or not self._versions.is_current(tensor) else value

    def _any_value(self, tensor: Any) -> Tensor | None:
        """What a tensor held when it was made, or the trace began; None where that is not known."""
        if type(tensor) is Tensor:
            return tensor if _is_followed(tensor) else None
        value: Tensor | None = self._values.get(tensor)
        return self._buffers.value(tensor) if value is None else value


class _Versions:
    """PyTorch counts the writes to a tensor, together with those to its views. Values are of one count."""

    def __init__(self) -> None:
        self._counts: dict[int, int | None] = {}  # by a tensor's memory
        self._alive: list[Any] = []  # so that no other tensor gets such memory

    def see(self, tensor: Tensor) -> None:
        """What is known of the tensor is so as it is now, unless its memory was seen before."""
        if _memory(tensor) not in self._counts:
            self.renew(tensor)
            self._alive.append(tensor.untyped_storage())

    def renew(self, tensor: Tensor) -> None:
        """What is known of the tensor is so as it is now."""
        self._counts[_memory(tensor)] = _writes_to(tensor)

    def forget(self, tensor: Tensor) -> None:
        """Nothing is known of the tensor from now on."""
        self._counts[_memory(tensor)] = None

    def is_current(self, tensor: Tensor) -> bool:
        """Whether nothing was written to the tensor since it was known."""
        count = self._counts.get(_memory(tensor))
        return count is not None and count == _writes_to(tensor)


class _Buffers:
    """The small buffers of a model, for which others stand while it is traced."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._held = [
            (module._buffers, name, held)
            for module in model.modules()
            for name, held in module._buffers.items()
            if type(held) is Tensor and _is_followed(held)
        ]
        self._ends = (*self._held[:1], *self._held[-1:])
        self._by_traced = WeakIdKeyDictionary()

    def value(self, traced: Any) -> Tensor | None:
        """The buffer for which a tensor stands, or None."""
        if any(each not in self._by_traced for each, _ in self._now(self._ends)):  # they are put in one by one
            self._by_traced = WeakIdKeyDictionary(dict(self._now(self._held)))
        return self._by_traced.get(traced)

    def _now(self, places: Sequence[tuple[Any, str, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """What stands in places now, and the buffers that were there."""
        for buffers, name, held in places:
            if isinstance(each := buffers.get(name), Tensor):
                yield each, held


def _apart(func: Any, args: Any, kwargs: Any) -> Any:
    """The result of a call that is not traced."""
    with _disable_current_modes(), torch._C.DisableTorchFunction():
        return func(*args, **kwargs)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _is_followed(tensor: Tensor) -> bool:
    is_plain = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.dtype.is_complex
    is_here = tensor.device.type == "cpu" or torch.cuda.is_available()  # examples may be fake tensors of a GPU
    return is_plain and is_here and all(isinstance(n, int) for n in tensor.shape) and tensor.numel() <= _MOST


def _is_symbolic(tree: Any) -> bool:
    return any(isinstance(leaf, (torch.SymInt, torch.SymFloat, torch.SymBool)) for leaf in pytree.tree_leaves(tree))


def _has_mask(index: Any) -> bool:
    return any(tensor.dtype in (torch.bool, torch.uint8) for tensor in _tensors(index))


def _memory(tensor: Tensor) -> int:
    with torch._C.DisableTorchFunction():
        return tensor.untyped_storage()._cdata


def _writes_to(tensor: Tensor) -> int | None:
    """How often it, or what it shares memory with, was written to; None where PyTorch does not count."""
    with torch._C.DisableTorchFunction():
        return None if tensor.is_inference() else tensor._version


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.dtype, tensor.device


def _name(func: Any) -> str:
    """The name of one of torch's own functions, but for operators by their overloads; of all else, none."""
    module = getattr(func, "__module__", None)  # methods and builtin functions have none
    is_torchs = module is None or module.partition(".")[0] == "torch"
    return "" if isinstance(func, (OpOverload, OpOverloadPacket)) or not is_torchs else getattr(func, "__name__", "")


def _writes(name: str, kwargs: Any) -> bool:
    """Whether a call by this name writes what can be followed to its first argument, or to `out`."""
    return name in (_PURE if kwargs.get("out") is not None else _WRITES)


def _writes_unseen(func: Any) -> bool:
    """Whether PyTorch may not count what a call, or what comes after it, writes to the call's tensors."""
    name = getattr(func, "__name__", "")
    return func in _UNSEEN or _is_mutable(func) or (name.startswith("_foreach") and name.endswith("_"))


def _may_write(func: Any, kwargs: Any) -> bool:
    """Whether a call may write to any of its tensors, as far as names tell."""
    name = getattr(func, "__name__", "")
    by_name = name in _WRITES or (name.endswith("_") and not name.startswith("__"))
    return by_name or "out" in kwargs or func in _UNSEEN or _is_mutable(func)


def _is_mutable(func: Any) -> bool:
    """Whether it is an operator that writes to its arguments."""
    if isinstance(func, OpOverloadPacket):
        return any(getattr(func, overload)._schema.is_mutable for overload in func.overloads())
    return isinstance(func, OpOverload) and func._schema.is_mutable
