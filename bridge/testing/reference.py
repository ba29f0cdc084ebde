"""Checks of an op on the CPU: its reference, what torch makes of it, and the shape rule of its kernel."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from bridge.core import libraries
from bridge.core.op import Op
from bridge.core.tensors import ANY
from bridge.errors import OpInputError
from bridge.testing.arguments import DTYPES, LAYOUTS, cast, differentiable, laid_out, outputs_of


def check_dispatch(op: Op, *args: Any, **kwargs: Any) -> None:
    """torch.library.opcheck of one call: schema, dispatch, fake implementation, and tracing by AOTAutograd.

    Raises:
        OpCheckError: torch's own; the op writes to an input, or a trace gives something else than the call.
    """
    grads = [a.detach().clone().requires_grad_() if differentiable(a) else a for a in args]
    torch.library.opcheck(op.overload, tuple(grads), kwargs)


def check_gradient(op: Op, *args: Any, **kwargs: Any) -> None:
    """First and second derivatives of one call against finite differences, in float64.

    Args:
        args, kwargs: of the call, away from where the op has a kink or a jump.
    Raises:
        AssertionError, GradcheckError: a derivative differs; the latter is torch's own.
    """
    doubles = cast(args, torch.float64)
    indices = [i for i, value in enumerate(doubles) if differentiable(value) and value.numel()]

    def call(*tensors: Tensor) -> Any:
        given = list(doubles)
        for index, tensor in zip(indices, tensors, strict=True):
            given[index] = tensor
        return op.overload(*given, **kwargs)

    inputs = tuple(doubles[i].detach().clone().requires_grad_() for i in indices)
    if inputs:
        assert torch.autograd.gradcheck(call, inputs, fast_mode=True)
        assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


def check_shapes(op: Op, *args: Any, **kwargs: Any) -> None:
    """The C++ shape rule against the fake implementation, for one call.

    Raises:
        AssertionError: the shapes differ; the message has both.
        OpInputError: one of them refuses the call.
        LibraryError: there is no library of plugins.
    """
    tensors, attributes = op.bind(args, kwargs)
    given = [None if tensor is None else tuple(tensor.shape) for tensor in tensors]
    inferred = libraries.infer_shapes(op, given, attributes)
    expected = [tuple(output.shape) for output in traced(op, tensors, attributes)]
    assert inferred == expected, f"{op.name}: C++ shapes {inferred}, Python shapes {expected} for {given}, {attributes}"


def traced(op: Op, tensors: Sequence[Tensor | None], attributes: dict[str, Any]) -> tuple[Tensor, ...]:
    """The outputs of the fake implementation, for the shapes and dtypes of these tensors."""
    env = ShapeEnv() if op.counted else None
    with torch._subclasses.FakeTensorMode(shape_env=env, allow_non_fake_inputs=False) as mode:
        fakes = [None if tensor is None else mode.from_tensor(tensor, static_shapes=True) for tensor in tensors]
        return outputs_of(op.overload(*fakes, *attributes.values()))


def check_call(op: Op, *args: Any, **kwargs: Any) -> None:
    """One call on the CPU: it gives what the fake implementation promises, dense and with no side effects.

    Raises:
        AssertionError: number, shapes, dtypes or strides of the outputs differ, or an input has changed.
        Exception: whatever the reference raises.
    """
    tensors, attributes = op.check(args, kwargs)
    before = [None if tensor is None else tensor.clone() for tensor in tensors]
    outputs = outputs_of(op.overload(*args, **kwargs))
    for name, tensor, copy in zip(op.tensors, tensors, before, strict=True):
        if tensor is not None:
            message = f"the call changes its input {name}"
            torch.testing.assert_close(tensor, copy, rtol=0, atol=0, equal_nan=True, msg=message)
    promised = traced(op, tensors, attributes)
    assert len(outputs) == op.num_outputs, f"{len(outputs)} outputs, its signature says {op.num_outputs}"
    for index, (output, fake) in enumerate(zip(outputs, promised, strict=True)):
        what = f"output {index}"
        assert output.dtype == fake.dtype, f"{what} is {output.dtype}, in a trace {fake.dtype}"
        assert output.is_contiguous(), f"{what} is not contiguous: shape {list(output.shape)}, {output.stride()}"
        if index not in op.counted:
            assert output.shape == fake.shape, f"{what} is {list(output.shape)}, in a trace {list(fake.shape)}"


def check_memory(op: Op, *args: Any, **kwargs: Any) -> None:
    """The outputs of one call share memory neither with the inputs nor with one another.

    Raises:
        AssertionError: two of them do; the message names both.
    """
    tensors, _ = op.bind(args, kwargs)
    named = [(name, tensor) for name, tensor in zip(op.tensors, tensors, strict=True) if tensor is not None]
    for index, output in enumerate(outputs_of(op.overload(*args, **kwargs))):
        for name, other in named:
            assert not _overlap(output, other), f"output {index} shares memory with {name}"
        named.append((f"output {index}", output))


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors lie in memory that overlaps, by its addresses: storages may differ, as NumPy's views do."""
    (first, end), (other, other_end) = _span(a), _span(b)
    return first < other_end and other < end


def _span(tensor: Tensor) -> tuple[int, int]:
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.data_ptr() + storage.nbytes()


def check_layouts(op: Op, *args: Any, **kwargs: Any) -> None:
    """One call on the CPU with inputs that are not contiguous, or begin amid their memory: the results are the same.

    Raises:
        AssertionError: they differ; torch.testing's message.
    """
    expected = op.overload(*args, **kwargs)
    for layout in LAYOUTS:
        actual = op.overload(*laid_out(args, layout), **kwargs)
        try:
            torch.testing.assert_close(actual, expected, equal_nan=True)
        except AssertionError as error:
            raise AssertionError(f"{layout.__name__} inputs: {error}") from error


def check_dtypes(op: Op, *args: Any, **kwargs: Any) -> None:
    """One call in every dtype that the op declares: the reference takes it, and the kernel, where there is one, agrees.

    The dtypes are those of the annotations; where these say nothing, the kernel's, or float32, float16 and bfloat16.

    Raises:
        AssertionError: the reference fails in a dtype, or it and the kernel give or take different ones.
    """
    plugins = op.library.plugins() if op.library.has_plugin(op.local_name) else None
    _, attributes = op.bind(args, kwargs)
    for tensors in dtype_variants(op, args, kwargs):
        dtypes = [None if tensor is None else _name(tensor.dtype) for tensor in tensors]
        what = ", ".join(f"{name} {dtype}" for name, dtype in zip(op.tensors, dtypes, strict=True) if dtype)
        try:
            outputs = outputs_of(op.overload(*tensors, *attributes.values()))
        except Exception as error:
            raise AssertionError(f"{what}: the reference raises {type(error).__name__}: {error}") from error
        if plugins is not None:
            actual = [_name(output.dtype) for output in outputs]
            inferred = plugins.infer_dtypes(op.local_name, dtypes, attributes)
            assert actual == inferred, f"{what}: outputs {actual} by the reference, {inferred} by the kernel"


def dtype_variants(op: Op, args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[list[Any]]:
    """The tensors of a call, None where one is absent, in every dtype that the op declares.

    One tensor at a time has another of its dtypes, and floating-point ones that are declared alike have it together,
    unless the op refuses those together, with an OpInputError.
    """
    tensors, attributes = op.bind(args, kwargs)
    for dtype in first_dtypes(op, args, kwargs):
        yield _as_declared(op, tensors, dtype)
        for indices in [*((index,) for index in range(1, len(tensors))), *_alike(op, tensors)]:
            for other in _others(op, indices[0], tensors[indices[0]], dtype):
                varied = _as_declared(op, tensors, dtype)
                for index in indices:
                    varied[index] = tensors[index].to(other)
                if _is_taken(op, varied, attributes):
                    yield varied


def _alike(op: Op, tensors: Sequence[Any]) -> list[tuple[int, ...]]:
    """The floating-point tensors after the first, by what is declared of them, where that is the same of several."""
    found: dict[Any, list[int]] = {}
    for index, tensor in enumerate(tensors):
        if index and differentiable(tensor):
            found.setdefault(op.dtypes[index], []).append(index)
    return [tuple(indices) for indices in found.values() if len(indices) > 1]


def _is_taken(op: Op, tensors: Sequence[Any], attributes: dict[str, Any]) -> bool:
    try:
        op.fake(*cast(tensors, device="meta"), **attributes)
    except OpInputError:
        return False
    except Exception:  # a fault of the reference, which the caller's own call finds
        return True
    return True


def first_dtypes(op: Op, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[torch.dtype, ...]:
    """The dtypes that the first tensor of a call may have, as far as its values can be cast to them."""
    (first, *_), _ = op.bind(args, kwargs)
    if not first.is_floating_point():
        return (first.dtype,)
    declared = op.dtypes[0].names
    if op.dtypes[0] is ANY:
        known = libraries.plugin_dtypes().get(op.name, [])
        declared = tuple(getattr(torch, name) for name in known) or DTYPES
    return tuple(dtype for dtype in declared if dtype.is_floating_point)


def _as_declared(op: Op, tensors: Sequence[Any], first: torch.dtype) -> list[Any]:
    """Floating-point tensors in the dtype of the first, where they are declared to take that."""

    def convert(index: int, value: Any) -> Any:
        takes = index == 0 or first in op.dtypes[index].of(first)
        return value.to(first) if differentiable(value) and takes else value

    return [convert(index, value) for index, value in enumerate(tensors)]


def _others(op: Op, index: int, value: Any, first: torch.dtype) -> list[torch.dtype]:
    """Further dtypes that a tensor is declared to take, of the kind that its values have."""
    rule = op.dtypes[index]
    if not isinstance(value, Tensor) or rule is ANY:
        return []
    usual = first if value.is_floating_point() else value.dtype
    alike = [dtype for dtype in rule.of(first) if dtype.is_floating_point == value.is_floating_point()]
    return [dtype for dtype in alike if dtype not in (usual, torch.float64)]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
