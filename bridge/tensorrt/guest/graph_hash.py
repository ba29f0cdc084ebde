"""What the arguments of a graph's operators are, as a hash: equal for graphs that differ in names alone."""

import hashlib
from collections.abc import Mapping
from typing import Any

from torch.fx import Graph, Node


def hash_arguments(graph: Graph) -> str:
    """64 hexadecimal digits. Nodes count by their place in the graph, literals by their type and value."""
    places = {node: index for index, node in enumerate(graph.nodes)}
    text = "\n".join(f"{_spell(node.args, places)} {_spell(node.kwargs, places)}" for node in graph.nodes)
    return hashlib.sha256(text.encode()).hexdigest()


def _spell(value: Any, places: Mapping[Node, int]) -> str:
    if isinstance(value, Node):
        return f"%{places[value]}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_spell(item, places) for item in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_spell(value[key], places)}' for key in sorted(value))}}}"
    if isinstance(value, slice):
        return f"slice{_spell((value.start, value.stop, value.step), places)}"
    return f"{type(value).__name__}:{value!r}"
