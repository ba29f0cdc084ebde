"""A call of an op as an engine makes it: by its plugin, with scratch memory and constants, and without TensorRT."""

import ctypes
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from bridge.core.op import Op
from bridge.tensorrt.plugins import plugin_object
from bridge.tensorrt.plugins.fields import make_fields
from bridge.tensorrt.plugins.plugin_object import HWC, HWC8, LINEAR, PluginObject
from bridge.testing.arguments import cast, outputs_of

OWN = -1  # the tactic that leaves the choice to the op
FROM_OP = 2  # TensorRT's numbers of tactics are greater than the op's by this: csrc/hosts/tensorrt/types.h


class PluginCall:
    """A plugin that runs calls of the sizes of one, whose outputs are overwritten by the next.

    tactics: the op's numbers of them, OWN first; none where there is but one way. own: the one that OWN stands for, or
    None where the op does not say.
    """

    def __init__(self, plugin: PluginObject, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        self._plugin, self._outputs = plugin, list(outputs)
        self._formats = [_format(tensor) for tensor in (*inputs, *outputs)]
        if plugin.configure(inputs, outputs, self._formats):
            raise ValueError("the plugin refuses these tensors; it has written the reason to stderr")
        own = plugin.own_tactic()
        self.tactics = [number - FROM_OP for number in plugin.tactics()]
        self.own = None if own is None else own - FROM_OP
        self._inputs = list(inputs)
        size = plugin.workspace(inputs, outputs, self._formats)  # enough for every tactic
        self._scratch = torch.empty(size, dtype=torch.uint8, device=inputs[0].device)

    def use(self, tactic: int) -> None:
        """Has the next calls made by a tactic. RuntimeError: the plugin refuses it."""
        self._plugin.set_tactic(tactic + FROM_OP)
        if self._plugin.shape_change(self._inputs, self._outputs, self._formats):
            raise RuntimeError(f"the plugin refuses tactic {tactic}; it has written the reason to stderr")

    def __call__(self, args: Sequence[Any]) -> tuple[Tensor, ...]:
        """Runs it on the current stream, on tensors of the same sizes. RuntimeError: it fails."""
        stream = torch.cuda.current_stream().cuda_stream
        if self._plugin.enqueue(tensors_of(args), self._outputs, stream, self._scratch, self._formats):
            raise RuntimeError("the plugin's run fails; it has written the reason to stderr")
        return tuple(self._outputs)


@contextmanager
def plugin_of(
    op: Op, tensors: Sequence[Any], attributes: dict[str, Any], constants: Collection[str] = ()
) -> Iterator[PluginObject]:
    """The plugin of a call, freed at the end. tensors: None where one is absent. constants: those that never change.

    ValueError: there is none. LibraryError: there is no library of plugins.
    """
    fields = make_fields(op, [value is not None for value in tensors], attributes, constants)
    path = op.library.plugin_library()
    address = plugin_object.create(path, op.local_name, {field.name: field.value for field in fields})
    if address is None:
        raise ValueError(f"the library {path} makes no plugin {op.local_name} of {attributes}")
    try:
        yield PluginObject(address)
    finally:
        plugin_object.delete(address)


@contextmanager
def plugin_call(
    op: Op, args: Sequence[Any], settings: dict[str, Any], constants: Collection[str] = (), last: bool = False
) -> Iterator[PluginCall]:
    """A call on this GPU by its plugin, freed at the end.

    constants: the tensors that never change. last: results have their channels last.
    ValueError: there is none, or it refuses the tensors. LibraryError: there is no library of plugins.
    """
    tensors, attributes = op.bind(list(args), settings)
    format = torch.channels_last if last else torch.contiguous_format
    with plugin_of(op, tensors, attributes, constants) as plugin:
        inputs = tensors_of(tensors)
        outputs = [
            torch.empty(t.shape, dtype=t.dtype, device=inputs[0].device, memory_format=format)
            for t in results_of(op, tensors, attributes)
        ]
        yield PluginCall(plugin, inputs, outputs)


def results_of(op: Op, tensors: Sequence[Any], attributes: dict[str, Any]) -> tuple[Tensor, ...]:
    """Shapes and dtypes of a call's results."""
    return outputs_of(op.overload(*cast(tensors, device="meta"), **attributes))


@contextmanager
def supposed_device(op: Op, capability: int, multiprocessors: int) -> Iterator[None]:
    """Has an op's plugins choose kernels for such a GPU on this thread, whatever GPU there is; they are not to run.

    capability: 10 times the major compute capability, and the minor one.
    """
    suppose = ctypes.CDLL(str(op.library.plugin_library())).bridge_suppose_device
    suppose(capability, multiprocessors)
    try:
        yield
    finally:
        suppose(0, 0)


def tensors_of(args: Sequence[Any]) -> list[Tensor]:
    """The tensors of a call that are there, in the order of the signature."""
    return [value for value in args if isinstance(value, Tensor)]


def dense(value: Any) -> Any:
    """An argument as an engine has it: its tensors have no strides but those of a layout."""
    if not isinstance(value, Tensor) or value.is_contiguous():
        return value
    last = value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last)
    return value if last else value.contiguous()


def _format(tensor: Tensor) -> int:
    """TensorRT's format of a tensor: linear, or channels last as kernels take it."""
    if tensor.is_contiguous() or tensor.dim() != 4:
        return LINEAR
    if not tensor.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(f"an engine has no tensor of strides {list(tensor.stride())}")
    return HWC if tensor.dtype == torch.float32 else HWC8
