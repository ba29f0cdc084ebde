"""The rows of an engine file's metadata about generated plugins; bridge/generate/summary.py makes them."""

from bridge.engine_file import checks

MOST = 20
"""Regions, kernels, and configurations of a kernel, that a row lists; it counts all of them."""

LONGEST = 300
"""Characters of the conditions of a region, and of a configuration."""

_MOST_TENSORS = 256
_text = checks.text_of(LONGEST)
_count = checks.integer(0)
_TENSOR = {
    "name": checks.name,
    "dtype": checks.optional(checks.word),
    "shape": checks.optional(checks.sequence(checks.word_or_integer, 64)),
}
_KERNEL = {
    "function": checks.name,
    "file": checks.text,
    "line": _count,
    "variants": _count,
    "configurations": checks.sequence(_text, MOST),
}
_REGION = {"conditions": _text, "launches": _count}

check = checks.record(
    {
        "name": checks.name,
        "operator": checks.name,
        "inputs": checks.sequence(checks.record(_TENSOR), _MOST_TENSORS),
        "kernel_count": _count,
        "kernels": checks.sequence(checks.record(_KERNEL), MOST),
        "region_count": _count,
        "regions": checks.sequence(checks.record(_REGION), MOST),
        "workspace_bytes": _count,
        "cubin_bytes": _count,
        "compressed_bytes": _count,
        "library_bytes": _count,
        "seconds": checks.seconds,
    }
)
"""Of one row. Plugin "name", made from "operator". An input's "shape" has numbers, and "n0: 1 to 8" for a range."""
