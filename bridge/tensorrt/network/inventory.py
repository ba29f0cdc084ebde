"""What a network holds, layer by layer, just before it is built."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from bridge.engine_file import dtypes
from bridge.engine_file.contents import OutputSpec
from bridge.tensorrt.plugins.fields import Call


def layers(network: Any, calls: Mapping[str, Call]) -> list[dict[str, Any]]:
    """Every layer that an output depends on, in an order of execution, as JSON values.

    calls: the uses of bridge's ops by the names of their layers. A tensor whose name another one has too gets a number.
    """
    return _Inventory(network).describe(calls)


def live(network: Any) -> set[int]:
    """The indices in the network of the same layers."""
    return set(_Inventory(network).in_order())


def outputs(network: Any) -> tuple[OutputSpec, ...]:
    """Every output, with -1 for an extent that depends on the inputs' shapes."""
    tensors = [network.get_output(index) for index in range(network.num_outputs)]
    return tuple(OutputSpec(tensor.name, _dtype(tensor), tuple(tensor.shape)) for tensor in tensors)


_NO_LAYER = -1  # makes an input of the network


class _Inventory:
    """Layers and tensors are told apart by identity: torch_tensorrt gives several the same name."""

    def __init__(self, network: Any) -> None:
        self._layers = [network.get_layer(index) for index in range(network.num_layers)]
        self._inputs = [_present(layer.get_input(i) for i in range(layer.num_inputs)) for layer in self._layers]
        self._outputs = [[layer.get_output(i) for i in range(layer.num_outputs)] for layer in self._layers]
        self._producers = {id(tensor): index for index, made in enumerate(self._outputs) for tensor in made}
        self._names: dict[int, str] = {}
        self._uses: Counter[str] = Counter()
        self._results = [network.get_output(index) for index in range(network.num_outputs)]
        for tensor in [*(network.get_input(index) for index in range(network.num_inputs)), *self._results]:
            self._name(tensor)

    def describe(self, calls: Mapping[str, Call]) -> list[dict[str, Any]]:
        return [self._describe(index, calls.get(self._layers[index].name)) for index in self.in_order()]

    def in_order(self) -> Iterator[int]:
        """Producers before consumers, from the outputs back: seeded plugin layers stand first in the network itself."""
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

    def _describe(self, index: int, call: Call | None) -> dict[str, Any]:
        layer, values = self._layers[index], self._outputs[index]
        return {
            "name": layer.name,
            "type": layer.type.name,
            "op": None if call is None else call.op.name,
            "attributes": {} if call is None else {field.name: _plain(field.value) for field in call.fields()},
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


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def _dtype(tensor: Any) -> str:
    row = dtypes.from_trt(tensor.dtype)
    return tensor.dtype.name.lower() if row is None else row.name
