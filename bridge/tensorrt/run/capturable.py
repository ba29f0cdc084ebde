"""Layers because of which a CUDA graph cannot hold an engine."""

from collections.abc import Mapping, Sequence
from typing import Any

_SHOWN = 3  # layers
# Layer types whose control flow or shapes are decided at run time.
_CONTROL = {
    **dict.fromkeys(("TRIP_LIMIT", "RECURRENCE", "ITERATOR", "LOOP_OUTPUT"), "a loop"),
    **dict.fromkeys(("CONDITION", "CONDITIONAL_INPUT", "CONDITIONAL_OUTPUT"), "a branch"),
    **dict.fromkeys(("NON_ZERO", "NMS"), "a result whose extent depends on values"),
}


def likely_causes(layers: Sequence[Mapping[str, Any]]) -> str:
    """Why a CUDA graph may be unable to hold an engine, as part of a sentence; empty if no layer is suspect."""
    names_by_cause: dict[str, list[str]] = {}
    for layer in layers:
        if layer["type"] in _CONTROL:
            names_by_cause.setdefault(_CONTROL[layer["type"]], []).append(str(layer["name"]))
    return "; ".join(f"it has {cause}: {_layer_names_text(names)}" for cause, names in names_by_cause.items())


def _layer_names_text(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} layers more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
