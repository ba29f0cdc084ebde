"""What an engine depends on beside its graph, bridge and the installed versions: what the process was told.

The converters, decompositions and graph passes that others have put into torch_tensorrt's and torch's tables, torch's
own switches that lowering looks at, and the environment that TensorRT reads.
"""

import hashlib
import os
import platform
from collections.abc import Iterator
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import Graph

from bridge.engine.code_key import NoKeyError, Speller, is_known

# The beginnings of the names of variables that TensorRT and torch_tensorrt read while they build.
_VARIABLES = ("NVIDIA_TF32_OVERRIDE", "TRT_", "TENSORRT_", "TORCHTRT_", "MYELIN_", "__LUNOWUD")
# Operators of these namespaces are taken apart by code whose version the key has.
_NAMESPACES = {"aten", "prim", "prims", "higher_order", "bridge", "torchvision", "quantized", "quantized_decomposed"}
_OURS = "bridge."


def surroundings(graph: Graph) -> dict[str, Any]:
    """Of a graph that is converted now, as JSON values. Call it while bridge converts.

    NoKeyError: some code cannot be spelt; the message says whose, and what it refers to.
    """
    _check_operators(graph)
    found = {
        "converters": dict(_converters()),
        "decompositions": dict(_decompositions()),
        "lowering passes": list(_lowering_passes()),
    }
    known = any("function<" in text or "object<" in text for text in _texts(found))
    return {
        **{name: hashlib.sha256(_ordered(part).encode()).hexdigest() for name, part in found.items()},
        "python": platform.python_version() if known else "",  # bytecode differs from version to version
        "torch": _switches(),
        "environment variables": {name: os.environ[name] for name in sorted(os.environ) if name.startswith(_VARIABLES)},
    }


def _ordered(part: Any) -> str:
    """Tables without the order in which they were filled; passes with theirs."""
    return repr(sorted(part.items()) if isinstance(part, dict) else part)


def _texts(parts: dict[str, Any]) -> Iterator[str]:
    for part in parts.values():
        yield from part.values() if isinstance(part, dict) else part


def _converters() -> Iterator[tuple[str, str]]:
    """For each target its converters, those that are tried first before the others, bridge's own left out."""
    from torch_tensorrt.dynamo.conversion import DYNAMO_CONVERTERS

    for place, table in enumerate(DYNAMO_CONVERTERS.registries):
        for target, entries in table.items():
            several = entries if isinstance(entries, (list, tuple)) else [entries]
            spelt = [text for entry in several if (text := _converter(target, entry))]
            if spelt:
                yield f"{place} {_target(target)}", "; ".join(spelt)


def _converter(target: Any, entry: Any) -> str:
    function = getattr(entry, "converter_implementation", entry)
    if str(getattr(function, "__module__", "")).startswith(_OURS):
        return ""
    parts = (function, getattr(entry, "capability_validator", None))
    flags = [getattr(entry, name, None) for name in ("supports_dynamic_shapes", "requires_output_allocator")]
    return f"{_spell(f'the converter of {_target(target)}', parts)} {flags}"


def _decompositions() -> Iterator[tuple[str, str]]:
    """Those of the table that graphs are lowered with."""
    from bridge.tensorrt.decompositions import decompositions

    for target, function in decompositions().items():
        if not str(getattr(function, "__module__", "")).startswith(_OURS):
            yield _target(target), _spell(f"the decomposition of {_target(target)}", _without_operator(function))


def _without_operator(function: Any) -> Any:
    """torch's own decompositions of composite operators are partial functions of the operator's methods."""
    inner = getattr(function, "func", None)
    return inner if inner is not None and is_known(inner) and not function.args else function


def _lowering_passes() -> Iterator[str]:
    from torch_tensorrt.dynamo.lowering import ATEN_POST_LOWERING_PASSES, ATEN_PRE_LOWERING_PASSES

    for each in (*ATEN_PRE_LOWERING_PASSES.passes, *ATEN_POST_LOWERING_PASSES.passes):
        if not str(getattr(each, "__module__", "")).startswith(_OURS):
            yield _spell(f"the lowering pass {getattr(each, '__name__', each)}", each)


def _check_operators(graph: Graph) -> None:
    """NoKeyError: lowering takes an operator apart by code that is registered with torch's dispatcher, out of reach."""
    for target in {node.target for node in graph.nodes if isinstance(node.target, OpOverload)}:
        name = target.name()
        composite = torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd")
        if target.namespace not in _NAMESPACES and composite:
            raise NoKeyError(f"{target} is made of other operators by code that cannot be read")


def _switches() -> dict[str, Any]:
    """What torch's own code looks at when it takes operators apart."""
    backends = torch.backends
    return {
        "default dtype": str(torch.get_default_dtype()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "fill uninitialized": getattr(torch.utils.deterministic, "fill_uninitialized_memory", None),
        "attention": [
            backends.cuda.flash_sdp_enabled(),
            backends.cuda.mem_efficient_sdp_enabled(),
            backends.cuda.math_sdp_enabled(),
            backends.cuda.cudnn_sdp_enabled(),
        ],
        "mkldnn": backends.mkldnn.is_available() and torch._C._get_mkldnn_enabled(),
        "cudnn": torch._C._get_cudnn_enabled(),
        "autocast": [
            [device, str(torch.get_autocast_dtype(device))]
            for device in ("cpu", "cuda")
            if torch.is_autocast_enabled(device)
        ],
    }


def _spell(what: str, value: Any) -> str:
    try:
        return Speller().spell(value)
    except NoKeyError as reason:
        raise NoKeyError(f"{what}: {reason}") from reason


def _target(target: Any) -> str:
    return str(target) if isinstance(target, (str, OpOverload)) else torch.typename(target)
