"""Runs the regions of generated ops on the CPU: an oracle for what their kernels compute, and for where they write.

Triton's interpreter executes the kernels. It takes the place of the compiler when Triton is imported, so a process that
runs regions has TRITON_INTERPRET=1 in its environment from its start (`fresh_process.run(code, TRITON_INTERPRET="1")`).
Kernels are then of a class without cache keys: such a process lowers and runs, and builds nothing.
"""

import functools
from types import SimpleNamespace

import numpy
import sympy
import torch
import triton.language as tl
from triton.language.extra import libdevice
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpretedFunction, TensorHandle

from bridge.generate.program import Copy, Launch, Zero

_DTYPES = {
    "*fp16": torch.float16, "*bf16": torch.bfloat16, "*fp32": torch.float32, "*fp64": torch.float64,
    "*i1": torch.bool, "*i8": torch.int8, "*u8": torch.uint8, "*i16": torch.int16, "*i32": torch.int32,
    "*i64": torch.int64,
}  # fmt: skip
_FENCE = 256  # bytes before and after each tensor that no kernel may write
_DIRT = 0xA5  # what memory holds before a run


def run_instance(instance, inputs, configuration=0):
    """The outputs of an instance for inputs, by the first of its regions whose conditions hold."""
    extents = {one.symbol: inputs[one.input].shape[one.axis] for one in instance.symbols}
    for one in instance.symbols:
        assert one.low <= extents[one.symbol] <= one.high, f"{one} is {extents[one.symbol]}"
    fitting = [region for region in instance.regions if holds(region, extents)]
    assert fitting, f"no region of {instance.operator} is for {extents}"
    return run(fitting[0], inputs, instance.outputs, extents, configuration)


def holds(region, extents):
    """Whether a region's conditions hold. extents: a number for each symbol."""
    return all(_value(condition, extents) for condition in region.conditions)


def run(region, inputs, outputs, extents, configuration=0):
    """The outputs of a region for inputs.

    outputs: their TensorTypes. configuration: which one of each kernel; the last one where there are fewer.
    AssertionError: a kernel wrote beyond a tensor or changed an input.
    """
    assert holds(region, extents), f"{region.conditions} do not all hold for {extents}"
    memory = {("input", i): _Memory.of(tensor) for i, tensor in enumerate(inputs) if tensor is not None}
    for i, kind in enumerate(outputs):
        memory["output", i] = _Memory(_size(kind, extents))
    for i, buffer in enumerate(region.buffers):
        memory["buffer", i] = _Memory(_value(buffer.bytes, extents))

    def bytes_at(pointer):
        return memory[pointer.kind, pointer.index].from_offset(_value(pointer.offset, extents))

    for step in region.steps:
        if isinstance(step, Launch):
            _launch(step, bytes_at, extents, configuration)
        elif isinstance(step, Zero):
            bytes_at(step.pointer)[: _value(step.bytes, extents)] = 0
        elif isinstance(step, Copy):
            size = _value(step.bytes, extents)
            bytes_at(step.target)[:size] = bytes_at(step.source)[:size]
        else:
            raise TypeError(f"{step!r} is no step")
    for name, one in memory.items():
        assert one.is_fenced(), f"a kernel wrote beyond {name}"
    for i, tensor in enumerate(inputs):
        assert tensor is None or torch.equal(memory["input", i].whole(), _as_bytes(tensor)), f"input {i} was changed"
    return [_tensor(memory["output", i].whole(), kind, extents) for i, kind in enumerate(outputs)]


class _Memory:
    """A tensor's bytes between two fences."""

    def __init__(self, size):
        self.size = size
        self._bytes = torch.full((size + 2 * _FENCE,), _DIRT, dtype=torch.uint8)

    @classmethod
    def of(cls, tensor):
        memory = cls(tensor.numel() * tensor.element_size())
        memory.whole()[:] = _as_bytes(tensor)
        return memory

    def whole(self):
        return self._bytes[_FENCE : _FENCE + self.size]

    def from_offset(self, offset):
        assert 0 <= offset <= self.size, f"offset {offset} in {self.size} bytes"
        return self._bytes[_FENCE + offset :]

    def is_fenced(self):
        return bool((self._bytes[:_FENCE] == _DIRT).all() and (self._bytes[_FENCE + self.size :] == _DIRT).all())


def _launch(step, bytes_at, extents, configuration):
    kernel = _interpreted(step.kernel)
    chosen = step.configurations[min(configuration, len(step.configurations) - 1)]
    values = {one.name: _argument(one, bytes_at, extents) for one in step.arguments}
    grid = tuple(_value(extent, extents) for extent in chosen.grid)
    assert min(grid) >= 0 and grid[1] <= 65535 and grid[2] <= 65535, f"{kernel.__name__}: grid {grid}"
    unknown = {*values, *chosen.constants} ^ set(kernel.arg_names)
    assert not unknown, f"{kernel.__name__}: {sorted(unknown)} are not both given and parameters"
    if all(grid):
        kernel[grid](**values, **chosen.constants)


def _argument(argument, bytes_at, extents):
    if not argument.type.startswith("*"):
        value = _value(argument.value, extents)
        if argument.type[0] in "iu" and argument.type != "i1":
            bits = int(argument.type[1:])
            assert value in range(-(2 ** (bits - 1)), 2 ** (bits - 1)), f"{argument} is {value}"
        assert argument.divisible != "always" or value % 16 == 0, f"{argument} is {value}"
        return value
    dtype, data = _DTYPES[argument.type], bytes_at(argument.value)
    offset = _value(argument.value.offset, extents)
    assert argument.divisible != "always" or offset % 16 == 0, f"{argument} is at {offset}"
    assert offset % dtype.itemsize == 0, f"{argument} is at {offset}"
    return data[: data.numel() // dtype.itemsize * dtype.itemsize].view(dtype)


def _value(expression, extents):
    """The number that an expression is, or the truth of a condition."""
    if isinstance(expression, (bool, int, float)):
        return expression
    known = sympy.sympify(expression).xreplace({symbol: sympy.Integer(value) for symbol, value in extents.items()})
    assert not known.free_symbols, f"{expression} has a symbol without a number"
    if known in (sympy.true, sympy.false):
        return bool(known)
    return int(known) if known.is_Integer else float(known)


def _size(kind, extents):
    size = kind.dtype.itemsize
    for extent in kind.shape:
        size *= _value(extent, extents)
    return size


def _as_bytes(tensor):
    return tensor.contiguous().flatten().view(torch.uint8)


def _tensor(data, kind, extents):
    return data.clone().view(kind.dtype).view([_value(extent, extents) for extent in kind.shape])


def _interpreted(kernel):
    if not isinstance(kernel, InterpretedFunction):
        raise RuntimeError(f"{kernel} is no interpreted kernel: start the process with TRITON_INTERPRET=1")
    complete_interpreter()
    return kernel


@functools.cache
def complete_interpreter():
    """Adds what Triton's interpreter lacks, and keeps what it patches at every call, for the rest of the process.

    `run` does it; before, where kernels are imported that take names from libdevice.
    """
    for module in (libdevice, tl.extra.cuda.libdevice):
        for name in set(dir(module)) & set(_LIBDEVICE):
            setattr(module, name, functools.partial(_elementwise, _LIBDEVICE[name]))
    kept = interpreter._patch_lang(SimpleNamespace(__globals__={"tl": tl, "core": tl.core}))
    tl.tensor.__index__ = lambda self: int(self.handle.data.item())  # newer NumPy refuses an array of one element
    interpreter._patch_lang = lambda fn: SimpleNamespace(restore=lambda: kept and None)
    interpreter.InterpreterBuilder.create_dot = _dot
    interpreter._implicit_cvt = functools.partial(_argument_as_tensor, interpreter._implicit_cvt)
    interpreter.ReduceOps.generic_reduce = _reduce
    interpreter.ScanOps.generic_scan = _scan


def _dot(self, a, b, d, input_precision, max_num_imprecise_acc):
    """As the interpreter's own, which takes bfloat16 for the integers that hold it."""
    left, right = (_float32_of(one.data) if one.dtype == tl.bfloat16 else one.data for one in (a, b))
    return TensorHandle(numpy.matmul(left, right, dtype=d.data.dtype) + d.data, d.dtype.scalar)


def _float32_of(bfloat16):
    return (bfloat16.view(numpy.uint16).astype(numpy.uint32) << 16).view(numpy.float32)


def _argument_as_tensor(original, value):
    """As the interpreter's own, which leaves floats as they are: kernels may call methods of them."""
    if isinstance(value, float):
        return tl.tensor(TensorHandle(numpy.array([value], numpy.float32), tl.float32), tl.float32)
    return original(value)


def _reduce(self, inputs):
    """As the interpreter's own, which goes from element to element: here halves are combined, as extents are 2**n."""
    inputs, axis = self.unravel(inputs, self.axis)
    dtypes, data = [one.dtype for one in inputs], [one.handle.data for one in inputs]
    data = [numpy.moveaxis(one, axis, -1) for one in data]
    while data[0].shape[-1] > 1:
        data = _combined(self, [one[..., 0::2] for one in data], [one[..., 1::2] for one in data], dtypes)
    data = [numpy.moveaxis(one, -1, axis) if self.keep_dims else one[..., 0] for one in data]
    return [self.to_tensor(one, dtype) for one, dtype in zip(data, dtypes, strict=True)]


def _scan(self, inputs):
    """As the interpreter's own, but all rows at once."""
    dtypes = [one.dtype for one in inputs]
    data = [numpy.moveaxis(one.handle.data, self.axis, -1).copy() for one in inputs]
    for i in range(1, data[0].shape[-1]):
        before, now = ([one[..., j : j + 1] for one in data] for j in (i - 1, i))
        for one, result in zip(data, _combined(self, before, now, dtypes), strict=True):
            one[..., i : i + 1] = result
    return [self.to_tensor(numpy.moveaxis(one, -1, self.axis), dtype) for one, dtype in zip(data, dtypes, strict=True)]


def _combined(self, left, right, dtypes):
    """What the combining function makes of arrays."""
    operands = [self.to_tensor(one, dtype) for one, dtype in zip(left + right, dtypes * 2, strict=True)]
    results = self.combine_fn.fn(*operands)
    return [one.handle.data for one in (results if isinstance(results, tuple) else (results,))]


def _elementwise(function, *arguments):
    tensors = [one for one in arguments if isinstance(one, tl.tensor)]
    first = tensors[0]
    values = [
        torch.from_numpy(numpy.array(one.handle.data)) if isinstance(one, tl.tensor) else one for one in arguments
    ]
    result = function(*values)
    if not isinstance(result, torch.Tensor):
        raise TypeError(f"{function} gave {result!r}")
    scalar = tl.int1 if result.dtype == torch.bool else tl.int32 if result.dtype == torch.int32 else first.dtype
    data = result.numpy()
    type = tl.block_type(scalar, list(data.shape)) if first.type.is_block() else scalar
    return tl.tensor(TensorHandle(data, scalar), type)


_SAME_NAME = (
    "abs", "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "ceil", "copysign", "cos", "cosh", "erf", "erfc",
    "erfinv", "exp", "exp2", "expm1", "floor", "fmod", "hypot", "ldexp", "lgamma", "log", "log10", "log1p", "log2",
    "nextafter", "pow", "rsqrt", "signbit", "sin", "sinh", "sqrt", "tan", "tanh", "trunc",
)  # fmt: skip
# By the names of CUDA's functions.
_LIBDEVICE = {
    **{name: getattr(torch, name) for name in _SAME_NAME},
    "fma": lambda a, b, c: (a.double() * b + c).to(a.dtype),
    "isinf": torch.isinf,
    "isnan": torch.isnan,
    "llrint": lambda x: torch.round(x).to(torch.int64),
    "nearbyint": torch.round,  # to even, as torch does
    "rint": torch.round,
    "round": lambda x: torch.trunc(x + torch.copysign(torch.full_like(x, 0.5), x)),
}
