"""What in an engine keeps it out of CUDA graphs."""

from collections.abc import Mapping, Sequence
from typing import Any

_SHOWN = 3  # layers
# Of TensorRT's layers those whose course is decided while they run.
_CONTROL = {
    **dict.fromkeys(("TRIP_LIMIT", "RECURRENCE", "ITERATOR", "LOOP_OUTPUT"), "a loop"),
    **dict.fromkeys(("CONDITION", "CONDITIONAL_INPUT", "CONDITIONAL_OUTPUT"), "a branch"),
    **dict.fromkeys(("NON_ZERO", "NMS"), "a result whose extent depends on values"),
}


def likely_causes(layers: Sequence[Mapping[str, Any]]) -> str:
    """A sentence part on the layers of an engine file that a CUDA graph cannot hold; empty where there are none."""
    found: dict[str, list[str]] = {}
    for layer in layers:
        if layer["type"] in _CONTROL:
            found.setdefault(_CONTROL[layer["type"]], []).append(str(layer["name"]))
    return "; ".join(f"it has {kind}: {_spell(names)}" for kind, names in found.items())


def _spell(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} layers more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
