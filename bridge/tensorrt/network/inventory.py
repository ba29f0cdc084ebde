"""The layers of a network as they are just before the build."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from bridge.engine_file import dtypes
from bridge.engine_file.contents import OutputSpec
from bridge.tensorrt.plugins.fields import Call


def layers(network: Any, calls: Mapping[str, Call]) -> list[dict[str, Any]]:
    """Every layer that an output depends on, in execution order, as JSON values.

    calls: the calls of bridge's ops, by the names of their layers. Tensors that share a name are numbered.
    """
    return _Inventory(network).layers(calls)


def live(network: Any) -> set[int]:
    """The indices of the same layers in the network."""
    return set(_Inventory(network).in_order())


def outputs(network: Any) -> tuple[OutputSpec, ...]:
    """Every output, with -1 for an extent that depends on the inputs' shapes."""
    tensors = [network.get_output(index) for index in range(network.num_outputs)]
    return tuple(OutputSpec(tensor.name, _dtype(tensor), tuple(tensor.shape)) for tensor in tensors)


_NO_LAYER = -1  # the producer of the network's inputs


class _Inventory:
    """Identifies layers and tensors by identity, because torch_tensorrt gives several the same name."""

    def __init__(self, network: Any) -> None:
        self._layers = [network.get_layer(index) for index in range(network.num_layers)]
        self._inputs = [_present(layer.get_input(i) for i in range(layer.num_inputs)) for layer in self._layers]
        self._outputs = [[layer.get_output(i) for i in range(layer.num_outputs)] for layer in self._layers]
        self._producers = {id(tensor): index for index, outputs in enumerate(self._outputs) for tensor in outputs}
        self._names: dict[int, str] = {}
        self._uses: Counter[str] = Counter()
        self._results = [network.get_output(index) for index in range(network.num_outputs)]
        for tensor in [*(network.get_input(index) for index in range(network.num_inputs)), *self._results]:
            self._name(tensor)

    def layers(self, calls: Mapping[str, Call]) -> list[dict[str, Any]]:
        return [self._layer_values(index, calls.get(self._layers[index].name)) for index in self.in_order()]

    def in_order(self) -> Iterator[int]:
        """Layers in topological order; in the network itself, seeded plugin layers come first."""
        seen = {_NO_LAYER}
        pending = [(self._producer(tensor), False) for tensor in reversed(self._results)]
        while pending:
            index, ready = pending.pop()
            if ready:
                yield index
            elif index not in seen:
                seen.add(index)
                pending.append((index, True))
                pending += [(self._producer(tensor), False) for tensor in reversed(self._inputs[index])]

    def _producer(self, tensor: Any) -> int:
        return self._producers.get(id(tensor), _NO_LAYER)

    def _layer_values(self, index: int, call: Call | None) -> dict[str, Any]:
        layer, values = self._layers[index], self._outputs[index]
        return {
            "name": layer.name,
            "type": layer.type.name,
            "op": None if call is None else call.op.name,
            "attributes": {} if call is None else {field.name: _json_value(field.value) for field in call.fields()},
            "inputs": [self._name(tensor) for tensor in self._inputs[index]],
            "outputs": [{"name": self._name(t), "dtype": _dtype(t), "shape": list(t.shape)} for t in values],
        }

    def _name(self, tensor: Any) -> str:
        if id(tensor) not in self._names:
            self._uses[tensor.name] += 1
            count = self._uses[tensor.name]
            self._names[id(tensor)] = tensor.name if count == 1 else f"{tensor.name} ({count})"
        return self._names[id(tensor)]


def _present(tensors: Iterator[Any]) -> list[Any]:
    return [tensor for tensor in tensors if tensor is not None]


def _json_value(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def _dtype(tensor: Any) -> str:
    row = dtypes.from_trt(tensor.dtype)
    return tensor.dtype.name.lower() if row is None else row.name
