"""Evaluates a TensorRT network with torch on the CPU.

It follows TensorRT's documentation of each layer, not its kernels: what it shows is that the network computes the right
thing, given that TensorRT does. What the documentation leaves undefined raises `Undefined`.
"""

from collections import ChainMap
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from bridge.engine_file import dtypes
from layer_interpreter import control, data, pointwise, sums, windows  # noqa: F401  each adds its layers
from layer_interpreter.table import LAYERS, Scope, Undefined, class_of

__all__ = ["Undefined", "interpret"]


def interpret(
    trt: Any, network: Any, inputs: Mapping[str, Tensor], calls: Mapping[str, Any] | None = None
) -> list[Tensor]:
    """The network's outputs. inputs: by the names of the network's. calls: of plugin layers, by their names."""
    outputs = [network.get_output(i).name for i in range(network.num_outputs)]
    scope: Scope = ChainMap(dict(inputs))
    _Program(trt, network, calls or {}).evaluate(outputs, scope)
    return [scope[name] for name in outputs]


class _Node:
    """A layer, and the names of the tensors that it reads; None where one is absent."""

    def __init__(self, trt: Any, layer: Any) -> None:
        self.kind = layer.type.name
        self.name = layer.name
        self.outputs = [layer.get_output(i) for i in range(layer.num_outputs)]
        self.inputs = [layer.get_input(i) for i in range(layer.num_inputs)]  # before it has another class
        self.names = [tensor and tensor.name for tensor in self.inputs]
        self.layer = layer
        if self.kind != "PLUGIN_V3":
            layer.__class__ = getattr(trt, class_of(self.kind))


class _Program:
    """The network's layers, evaluated on demand; of loops and conditionals what the outputs need."""

    def __init__(self, trt: Any, network: Any, calls: Mapping[str, Any]) -> None:
        self._trt = trt
        self._calls = calls
        nodes = [_Node(trt, network.get_layer(index)) for index in range(network.num_layers)]
        self._makers = {tensor.name: node for node in nodes for tensor in node.outputs}
        self._regions = control.Regions(nodes)

    def evaluate(self, names: Iterable[str], scope: Scope) -> None:
        """Puts the tensors of these names into the scope, with all that they need; without recursion over layers."""
        pending = list(names)
        while pending:
            if pending[-1] in scope:
                pending.pop()
                continue
            node = self._makers[pending[-1]]
            missing = [name for name in self._regions.needs(node, scope) if name not in scope]
            if missing:
                pending.extend(missing)
                continue
            self._run(node, scope)

    def _run(self, node: _Node, scope: Scope) -> None:
        results = self._regions.run(node, scope, self.evaluate)
        if results is None:
            operands = [None if name is None else scope[name] for name in node.names]
            results = self._plugin(node, operands) if node.kind == "PLUGIN_V3" else self._layer(node, operands)
        for tensor, result in zip(node.outputs, results if isinstance(results, tuple) else (results,), strict=True):
            _check(tensor, result)
            scope[tensor.name] = result

    def _layer(self, node: _Node, operands: list[Tensor | None]) -> Any:
        if node.kind not in LAYERS:
            raise NotImplementedError(f"the interpreter has no {node.kind} layer")
        return LAYERS[node.kind](self._trt, node.layer, *operands)

    def _plugin(self, node: _Node, operands: list[Tensor | None]) -> Any:
        """What the op's reference makes of the tensors that are present, and, of a counted op, how many it found."""
        call, given = self._calls[node.name], iter(operands)
        results = call.op.run(*(next(given) if present else None for present in call.tensors), **call.attributes)
        if not call.op.counted:
            return results
        dtype = dtypes.from_trt(node.outputs[-1].dtype).torch
        results = results if isinstance(results, tuple) else (results,)
        return (*results, *[torch.tensor(results[place].shape[0], dtype=dtype) for place in call.op.counted])


def _check(tensor: Any, value: Tensor) -> None:
    """What TensorRT says of the tensor holds for its value."""
    shape, dtype = tuple(tensor.shape), dtypes.from_trt(tensor.dtype)
    assert dtype.torch == value.dtype, f"{tensor.name}: {dtype.name}, computed {value.dtype}"
    assert len(shape) == value.dim(), f"{tensor.name}: {shape}, computed {tuple(value.shape)}"
    fits = all(known in (-1, extent) for known, extent in zip(shape, value.shape, strict=True))
    assert fits, f"{tensor.name}: {shape}, computed {tuple(value.shape)}"
