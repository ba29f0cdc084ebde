"""A hash of the arguments of a graph's operators: equal for graphs that differ only in names."""

import hashlib
from collections.abc import Mapping
from typing import Any

from torch.fx import Graph, Node


def hash_arguments(graph: Graph) -> str:
    """64 hexadecimal digits. Nodes are identified by their index in the graph, literals by type and value."""
    indices = {node: index for index, node in enumerate(graph.nodes)}
    text = "\n".join(f"{_value_text(node.args, indices)} {_value_text(node.kwargs, indices)}" for node in graph.nodes)
    return hashlib.sha256(text.encode()).hexdigest()


def _value_text(value: Any, indices: Mapping[Node, int]) -> str:
    if isinstance(value, Node):
        return f"%{indices[value]}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value_text(item, indices) for item in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_value_text(value[key], indices)}' for key in sorted(value))}}}"
    if isinstance(value, slice):
        return f"slice{_value_text((value.start, value.stop, value.step), indices)}"
    return f"{type(value).__name__}:{value!r}"
