"""Launches of Triton kernels that stand in a model itself, in no operator: a node of the graph each.

torch has an operator for such a launch, which torch.compile captures by itself. In torch.export the launch is a plain
call: within `launches_in_graphs` it is that operator, too.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch._library.custom_ops import OPDEFS
from torch._library.triton import triton_ops_to_kernels
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from bridge.base.patches import replace
from bridge.errors import UnsupportedOpError
from bridge.generate.tracing.calls import Reader
from bridge.generate.tracing.recording import ALLOCATIONS
from bridge.generate.tracing.trace import Call
from bridge.generate.tracing.triton_launches import (
    base_name,
    catching_launches,
    is_catching,
    redirecting_launches,
    without_heuristics,
)
from bridge.generate.without_gpu import stand_in_gpu

NAMESPACE = "triton"
"""Of the plugins that launches become; their names are those of the kernels."""


@contextlib.contextmanager
def launches_in_graphs() -> Iterator[None]:
    """The context in which launches with traced tensors become nodes of the graph that is captured.

    A no-op while nothing has imported Triton, for then there is no kernel.
    """
    if "triton" not in sys.modules:
        yield
        return
    from torch._higher_order_ops import triton_kernel_wrap

    def launch(kernel: Any, grid: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if get_proxy_mode() is None and not _are_functional(args, kwargs):
            return  # an operator's fake implementation
        kernel, known = without_heuristics(kernel, args, kwargs)
        triton_kernel_wrap.TraceableTritonKernelWrapper(kernel, None, None)[grid](*args, **known)

    written = triton_kernel_wrap.get_mutated_tensors

    def written_without_gpu(*args: Any) -> Any:
        with stand_in_gpu():  # torch finds out what a kernel writes by compiling it
            return written(*args)

    with contextlib.ExitStack() as stack:
        replace(stack, triton_kernel_wrap, "get_mutated_tensors", written_without_gpu)
        for name in list(triton_ops_to_kernels):
            if (definition := OPDEFS.get(name)) is not None:
                replace(stack, definition, "_abstract_fn", _without_guards(vars(definition)["_abstract_fn"]))
        stack.enter_context(redirecting_launches(_is_traced, launch))
        yield


def _without_guards(fake: Callable[..., Any]) -> Callable[..., Any]:
    """An operator's fake implementation whose questions about extents do not narrow the model's.

    That of a triton_op is its body, which asks for constants of its kernels. Plugins have an answer for each extent.
    """

    def run(*args: Any, **kwargs: Any) -> Any:
        mode = torch._guards.detect_fake_mode((args, kwargs))
        env = None if mode is None else mode.shape_env
        with contextlib.nullcontext() if env is None else env.suppress_guards(), catching_launches(_nothing):
            return fake(*args, **kwargs)

    return run


def _is_traced(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    return any(isinstance(each, (FakeTensor, FunctionalTensor)) for each in (*args, *kwargs.values()))


def _are_functional(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    return any(isinstance(each, FunctionalTensor) for each in (*args, *kwargs.values()))


class Allocated(NamedTuple):
    """A tensor that a kernel fills, and that nothing filled before: its dtype and shape are all that counts."""

    dtype: torch.dtype
    shape: tuple[Any, ...]


def is_launch(node: Node) -> bool:
    """Whether a node is such a launch."""
    from torch._higher_order_ops.triton_kernel_wrap import triton_kernel_wrapper_functional

    return node.target is triton_kernel_wrapper_functional


def writes(node: Node) -> bool:
    """Whether a node is such a launch before torch made it functional: it writes into its arguments."""
    from torch._higher_order_ops.triton_kernel_wrap import triton_kernel_wrapper_mutation

    return node.target is triton_kernel_wrapper_mutation


def call_of_launch(node: Node) -> tuple[Call, list[Node]]:
    """The call that a launch stands for, whose results are the tensors that the kernel writes; the nodes of its
    tensors.

    UnsupportedOpError: an argument is nothing that can be traced.
    """
    from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table

    if node.kwargs["tma_descriptor_metadata"]:
        raise UnsupportedOpError("it takes tensor descriptors, which plugins do not support")
    arguments: Mapping[str, Any] = node.kwargs
    kernel = kernel_side_table.get_kernel(arguments["kernel_idx"])
    constants = kernel_side_table.get_constant_args(arguments["constant_args_idx"])
    given = arguments["kwargs"]
    reader = Reader()
    read = {name: reader.read(name, value) for name, value in given.items() if not _is_allocated(value)}
    read |= {name: _allocated(reader, name, value) for name, value in given.items() if name not in read}
    grids = [[reader.read("grid", extent) for extent in grid] for grid in arguments["grid"]]
    body = _Body(kernel, constants, _written(node))
    return reader.call(f"{NAMESPACE}::{base_name(kernel)}", body, (read, grids), {}), reader.nodes


def set_results(node: Node) -> None:
    """Has the users of a launch's node take its results by number, once they are a tuple, or a tensor."""
    names = _written(node)
    values = node.meta["val"]
    for user in list(node.users):
        if len(names) == 1:
            user.replace_all_uses_with(node)
            user.graph.erase_node(user)
        else:
            user.args = (node, names.index(str(user.args[1])))
    node.meta["val"] = values[names[0]] if len(names) == 1 else tuple(values[name] for name in names)


def _written(node: Node) -> tuple[str, ...]:
    """The parameters of the tensors that a launch writes, in the order of its arguments."""
    arguments: Mapping[str, Any] = node.kwargs
    return tuple(name for name in arguments["kwargs"] if name in arguments["tensors_to_clone"])


def _is_allocated(value: Any) -> bool:
    return isinstance(value, Node) and value.target in ALLOCATIONS


def _allocated(reader: Reader, name: str, value: Node) -> Any:
    """The tensor as one that is new, where the others' extents tell its shape; else as an input."""
    tensor = value.meta["val"]
    try:
        return Allocated(tensor.dtype, tuple(reader.number(name, extent) for extent in tensor.shape))
    except UnsupportedOpError:
        return reader.read(name, value)


def _nothing(launch: Any) -> None:
    """For launches with fake tensors, of which the shapes are all that is asked for."""


@dataclass(frozen=True)
class _Body:
    """Launches a kernel on copies of the tensors that it writes, and returns these."""

    kernel: Any
    constants: Mapping[str, Any]
    written: tuple[str, ...]

    def __call__(self, given: Mapping[str, Any], grids: list[Any]) -> Any:
        arguments = {**self.constants, **given}
        device = next(each.device for each in given.values() if isinstance(each, torch.Tensor))
        for name in self.written:
            value = arguments[name]
            new = isinstance(value, Allocated)
            arguments[name] = torch.empty(value.shape, dtype=value.dtype, device=device) if new else value.clone()
        configurations = getattr(self.kernel, "configs", [None])

        def grid(meta: Mapping[str, Any]) -> Any:
            for configuration, programs in zip(configurations, grids, strict=False):
                known = {} if configuration is None else configuration.kwargs
                if all(meta[name] == value for name, value in known.items()):
                    return programs
            raise AssertionError("torch has a grid for each configuration")

        fake = any(isinstance(each, FakeTensor) for each in arguments.values())
        with contextlib.nullcontext() if is_catching() or not fake else catching_launches(_nothing):
            self.kernel[grid](**arguments)
        results = tuple(arguments[name] for name in self.written)
        return results[0] if len(results) == 1 else results
