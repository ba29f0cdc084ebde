"""The variants of a backend, such as the modes of a compiler: the fastest one's time stands for it, by name."""

from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]
GRAPH = "CUDA graph"
WIDER = "wider dtype"


def summary(results: Mapping[str, Row]) -> dict[str, Any]:
    """One result of a backend: that of its fastest variant, which "variant" names, with all of them as "variants".

    A backend of one variant has that one's result. Where all failed, it failed as the first one did.
    """
    if list(results) == [""]:
        return dict(results[""])
    measured = {name: result for name, result in results.items() if best(result)}
    name = min(measured, key=lambda each: (best(measured[each]) or ("", 0.0))[1], default=next(iter(results)))
    return {**results[name], "variant": name, "variants": dict(results)}


def best(result: Row) -> tuple[str, float] | None:
    """How a backend is fastest, in words ("" for plain calls), and its microseconds; None where it has no time."""
    variant = result.get("variant", "")
    graph = result.get("cuda_graph", {})
    candidates = [(variant, result["us"])] if "us" in result else []
    if "us" in graph:
        candidates.append((", ".join(filter(None, (variant, GRAPH))), graph["us"]))
    return min(candidates, key=lambda each: each[1], default=None)


def failures(result: Row) -> dict[str, str]:
    """Why parts of a backend's result are missing, by their names: "" for all of it."""
    if "variants" in result:
        parts = [(name, *item) for name, each in result["variants"].items() for item in failures(each).items()]
        found = {", ".join(filter(None, (name, part))): reason for name, part, reason in parts}
    else:
        found = {"": result["failed"]} if "failed" in result else {}
        steps = {GRAPH: result.get("cuda_graph", {}), WIDER: result.get("wider", {})}
        found |= {part: each["failed"] for part, each in steps.items() if "failed" in each}
    return found | ({"further variants": result["unfinished"]} if "unfinished" in result else {})
