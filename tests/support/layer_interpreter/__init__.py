"""Evaluates a TensorRT network with torch on the CPU.

It follows TensorRT's documentation of each layer, not its kernels: it shows that the network is right if TensorRT is.
What the documentation leaves undefined raises `Undefined`.
"""

from collections import ChainMap
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from bridge.engine_file import dtypes
from layer_interpreter import control, data, pointwise, sums, windows  # noqa: F401  each registers its layers
from layer_interpreter.table import LAYERS, Scope, Undefined, class_of

__all__ = ["Undefined", "interpret"]


def interpret(
    trt: Any, network: Any, inputs: Mapping[str, Tensor], calls: Mapping[str, Any] | None = None
) -> list[Tensor]:
    """The network's outputs. inputs: by name. calls: of plugin layers, by the layer's name."""
    outputs = [network.get_output(i).name for i in range(network.num_outputs)]
    scope: Scope = ChainMap(dict(inputs))
    _Program(trt, network, calls or {}).evaluate(outputs, scope)
    return [scope[name] for name in outputs]


class _Node:
    """A layer, and the names of its input tensors; None for an absent one."""

    def __init__(self, trt: Any, layer: Any) -> None:
        self.type = layer.type.name
        self.name = layer.name
        self.outputs = [layer.get_output(i) for i in range(layer.num_outputs)]
        self.inputs = [layer.get_input(i) for i in range(layer.num_inputs)]  # before it has another class
        self.names = [tensor and tensor.name for tensor in self.inputs]
        self.layer = layer
        if self.type != "PLUGIN_V3":
            layer.__class__ = getattr(trt, class_of(self.type))


class _Program:
    """The network's layers, evaluated on demand; of loops and conditionals only what the outputs need."""

    def __init__(self, trt: Any, network: Any, calls: Mapping[str, Any]) -> None:
        self._trt = trt
        self._calls = calls
        nodes = [_Node(trt, network.get_layer(index)) for index in range(network.num_layers)]
        self._producers = {tensor.name: node for node in nodes for tensor in node.outputs}
        self._regions = control.Regions(nodes)

    def evaluate(self, names: Iterable[str], scope: Scope) -> None:
        """Computes these tensors into the scope, with all that they need; without recursion over layers."""
        pending = list(names)
        while pending:
            if pending[-1] in scope:
                pending.pop()
                continue
            node = self._producers[pending[-1]]
            missing = [name for name in self._regions.needs(node, scope) if name not in scope]
            if missing:
                pending.extend(missing)
                continue
            self._run(node, scope)

    def _run(self, node: _Node, scope: Scope) -> None:
        results = self._regions.run(node, scope, self.evaluate)
        if results is None:
            operands = [None if name is None else scope[name] for name in node.names]
            results = self._plugin(node, operands) if node.type == "PLUGIN_V3" else self._layer(node, operands)
        for tensor, result in zip(node.outputs, results if isinstance(results, tuple) else (results,), strict=True):
            _check(tensor, result)
            scope[tensor.name] = result

    def _layer(self, node: _Node, operands: list[Tensor | None]) -> Any:
        if node.type not in LAYERS:
            raise NotImplementedError(f"the interpreter has no {node.type} layer")
        return LAYERS[node.type](self._trt, node.layer, *operands)

    def _plugin(self, node: _Node, operands: list[Tensor | None]) -> Any:
        """The results of the op's reference and, for a counted op, their numbers of elements."""
        call, tensors = self._calls[node.name], iter(operands)
        results = call.op.run(*(next(tensors) if present else None for present in call.tensors), **call.attributes)
        if not call.op.counted:
            return results
        dtype = dtypes.from_trt(node.outputs[-1].dtype).torch
        results = results if isinstance(results, tuple) else (results,)
        return (*results, *[torch.tensor(results[index].shape[0], dtype=dtype) for index in call.op.counted])


def _check(tensor: Any, value: Tensor) -> None:
    """Asserts that a value has the dtype and shape that TensorRT infers."""
    shape, dtype = tuple(tensor.shape), dtypes.from_trt(tensor.dtype)
    assert dtype.torch == value.dtype, f"{tensor.name}: {dtype.name}, computed {value.dtype}"
    assert len(shape) == value.dim(), f"{tensor.name}: {shape}, computed {tuple(value.shape)}"
    fits = all(known in (-1, extent) for known, extent in zip(shape, value.shape, strict=True))
    assert fits, f"{tensor.name}: {shape}, computed {tuple(value.shape)}"
