"""Runs a plugin on tensors as an engine does, without an engine."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from bridge.tensorrt.plugins import plugin_object
from bridge.tensorrt.plugins.plugin_object import PluginObject

_DIRT = 0xFF  # of scratch memory: NaN in every floating-point dtype


class PluginRunError(Exception):
    """A plugin refused tensors, or its run failed; it has written the reason to stderr."""


def run_plugin(path: Path, name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    """Runs a plugin without attributes on the current stream, and waits for it.

    Args:
        path: of the library. name: of the plugin, without its namespace.
        inputs, outputs: dense tensors on the current GPU; the outputs are written.
    Raises:
        PluginRunError: it does not take these tensors, or fails; the message says which.
        torch.OutOfMemoryError: there is none for its scratch memory.
    """
    address = plugin_object.create(path, name, {})
    if address is None:
        raise PluginRunError(f"the library {path} makes no plugin {name}")
    try:
        plugin = PluginObject(address)
        if plugin.shape_change(inputs, outputs):
            raise PluginRunError(f"it refuses shapes {', '.join(str(list(each.shape)) for each in inputs)}")
        scratch = torch.full((plugin.workspace(inputs, outputs),), _DIRT, dtype=torch.uint8, device=outputs[0].device)
        stream = torch.cuda.current_stream()
        if plugin.enqueue(inputs, outputs, stream.cuda_stream, scratch):
            raise PluginRunError("its run fails")
        _wait(stream)
    finally:
        plugin_object.delete(address)


def _wait(stream: torch.cuda.Stream) -> None:
    try:
        stream.synchronize()
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise PluginRunError(f"the GPU fails in it, and this process cannot use it any more: {reason}") from error
