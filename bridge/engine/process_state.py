"""The state of the process that an engine depends on, beside its graph and the installed versions.

It consists of:

- converters, decompositions and graph passes that other code has registered with torch_tensorrt and torch;
- settings of torch that lowering reads;
- environment variables that TensorRT reads.
"""

import hashlib
import os
import platform
from collections.abc import Iterator
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import Graph

from bridge.core.library import LIBRARIES
from bridge.engine.code_key import CodeText, NoKeyError, is_versioned

# Prefixes of the environment variables that TensorRT and torch_tensorrt read during a build.
_VARIABLES = ("NVIDIA_TF32_OVERRIDE", "TRT_", "TENSORRT_", "TORCHTRT_", "MYELIN_", "__LUNOWUD")
# Operators of these namespaces are decomposed by code whose version is in the key.
_NAMESPACES = {"aten", "prim", "prims", "higher_order", "torchvision", "quantized", "quantized_decomposed"}
_OWN_MODULES = "bridge."


def process_state(graph: Graph) -> dict[str, Any]:
    """The state for the conversion of a graph, as JSON values. Call it within `session.converting()`.

    NoKeyError: some registered code has no stable text; the message names it and what it refers to.
    """
    _check_operators(graph)
    tables = {
        "converters": dict(_converters()),
        "decompositions": dict(_decompositions()),
        "lowering passes": list(_lowering_passes()),
    }
    known = any("function<" in text or "object<" in text for text in _all_texts(tables))
    return {
        **{name: hashlib.sha256(_ordered(part).encode()).hexdigest() for name, part in tables.items()},
        "python": platform.python_version() if known else "",  # bytecode differs from version to version
        "torch": _torch_settings(),
        "environment variables": {name: os.environ[name] for name in sorted(os.environ) if name.startswith(_VARIABLES)},
    }


def _ordered(part: Any) -> str:
    """A table is sorted, for the order of registration does not matter; passes keep their order."""
    return repr(sorted(part.items()) if isinstance(part, dict) else part)


def _all_texts(parts: dict[str, Any]) -> Iterator[str]:
    for part in parts.values():
        yield from part.values() if isinstance(part, dict) else part


def _converters() -> Iterator[tuple[str, str]]:
    """For each target its converters in order of priority, without bridge's own."""
    from torch_tensorrt.dynamo.conversion import DYNAMO_CONVERTERS

    for registry, table in enumerate(DYNAMO_CONVERTERS.registries):
        for target, entries in table.items():
            candidates = entries if isinstance(entries, (list, tuple)) else [entries]
            texts = [text for entry in candidates if (text := _converter(target, entry))]
            if texts:
                yield f"{registry} {_target(target)}", "; ".join(texts)


def _converter(target: Any, entry: Any) -> str:
    function = getattr(entry, "converter_implementation", entry)
    if str(getattr(function, "__module__", "")).startswith(_OWN_MODULES):
        return ""
    parts = (function, getattr(entry, "capability_validator", None))
    flags = [getattr(entry, name, None) for name in ("supports_dynamic_shapes", "requires_output_allocator")]
    return f"{_code_text(f'the converter of {_target(target)}', parts)} {flags}"


def _decompositions() -> Iterator[tuple[str, str]]:
    """The decompositions of the table that graphs are lowered with, without bridge's own."""
    from bridge.tensorrt.decompositions import decompositions

    for target, function in decompositions().items():
        if not str(getattr(function, "__module__", "")).startswith(_OWN_MODULES):
            yield _target(target), _code_text(f"the decomposition of {_target(target)}", _without_operator(function))


def _without_operator(function: Any) -> Any:
    """Unwraps torch's own decompositions of composite operators: partials of the operator's methods."""
    inner = getattr(function, "func", None)
    return inner if inner is not None and is_versioned(inner) and not function.args else function


def _lowering_passes() -> Iterator[str]:
    from torch_tensorrt.dynamo.lowering import ATEN_POST_LOWERING_PASSES, ATEN_PRE_LOWERING_PASSES

    for each in (*ATEN_PRE_LOWERING_PASSES.passes, *ATEN_POST_LOWERING_PASSES.passes):
        if not str(getattr(each, "__module__", "")).startswith(_OWN_MODULES):
            yield _code_text(f"the lowering pass {getattr(each, '__name__', each)}", each)


def _check_operators(graph: Graph) -> None:
    """NoKeyError: an operator is decomposed by code in torch's dispatcher, which cannot be read."""
    for target in {node.target for node in graph.nodes if isinstance(node.target, OpOverload)}:
        name = target.name()
        composite = torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd")
        if target.namespace not in _NAMESPACES | LIBRARIES.keys() and composite:
            raise NoKeyError(f"{target} is made of other operators by code that cannot be read")


def _torch_settings() -> dict[str, Any]:
    """The settings that torch's decompositions read."""
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


def _code_text(what: str, value: Any) -> str:
    try:
        return CodeText().of(value)
    except NoKeyError as reason:
        raise NoKeyError(f"{what}: {reason}") from reason


def _target(target: Any) -> str:
    return str(target) if isinstance(target, (str, OpOverload)) else torch.typename(target)
