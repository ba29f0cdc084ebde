"""The contents of an engine file, as text and as JSON. Needs neither TensorRT nor a GPU."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bridge.base.text import columns, shape_text, size
from bridge.engine import generated_table, node_table
from bridge.engine_file.contents import EngineFile
from bridge.tensorrt.plugins.fields import TENSORS_FIELD

_LONGEST = 100  # characters of a node's name, beside each of its layers
_WRITERS = ("bridge", "torch", "torch_tensorrt")


def explain(file: EngineFile, every_layer: bool = False, nodes: bool = False) -> str:
    """The engine as text: model, target, inputs with their profile, outputs, layers by type, plugin layers.

    every_layer: also list every layer of the network, with its outputs and the node that it is of; and the kernels and
        regions of each generated plugin.
    nodes: also list the layers of each node of the model's graph, and count them by module.
    """
    sections = [columns(_summary(file), indent=0), _inputs(file), _outputs(file), _layer_types(file), _plugins(file)]
    sections += [generated_table.text(file, every_layer), _lowerings(file), _passes(file)]
    if nodes:
        sections += [node_table.modules_text(file), node_table.nodes_text(file)]
    if every_layer:
        sections.append(_layers(file))
    return "\n\n".join(section for section in sections if section)


def as_json_values(file: EngineFile) -> dict[str, Any]:
    """The same as `explain`, as JSON values; infinities and NaN become the strings "inf", "-inf" and "nan"."""
    return _finite(
        {
            "model": file.metadata.get("model"),
            "parameters": file.metadata.get("parameters"),
            "flavour": file.flavour,
            "tensorrt_version": file.tensorrt_version,
            "target": file.target,
            "size": len(file.engine),
            "build_seconds": file.metadata.get("build_seconds"),
            "versions": {name: file.metadata.get(name) for name in _WRITERS},
            "inputs": [asdict(spec) for spec in file.inputs],
            "outputs": [asdict(spec) for spec in file.outputs],
            "layer_types": dict(_layer_type_counts(file)),
            "plugin_counts": dict(node_table.plugin_counts(file.layers)),
            "plugin_versions": file.plugins,
            "plugin_layers": [layer for layer in file.layers if layer.get("op")],
            "generated": generated_table.rows(file),
            "lowerings": lowerings(file),
            "passes": passes(file),
            "layers": file.layers,
            "nodes": node_table.nodes(file),
            "modules": node_table.modules(file),
        }
    )


def _summary(file: EngineFile) -> Iterator[tuple[str, str]]:
    metadata = file.metadata
    if "model" in metadata:
        parameters = metadata.get("parameters")
        yield "model", f"{metadata['model']}" + (f", {parameters:,} parameters" if isinstance(parameters, int) else "")
    seconds = metadata.get("build_seconds")
    build_time = f", built in {seconds:.1f} s" if isinstance(seconds, (int, float)) else ""
    yield "engine", f"{size(len(file.engine))} for {file.target}, {file.flavour} {file.tensorrt_version}{build_time}"
    writers = [f"{name} {metadata[name]}" for name in _WRITERS if metadata.get(name)]
    if writers:
        yield "made by", ", ".join(writers)


def _inputs(file: EngineFile) -> str:
    rows = [
        (spec.name, spec.dtype, shape_text(spec.min), shape_text(spec.opt), shape_text(spec.max))
        for spec in file.inputs
    ]
    return _section("inputs", ("dtype", "min", "opt", "max"), rows)


def _outputs(file: EngineFile) -> str:
    return _section(
        "outputs", ("dtype", "shape"), [(spec.name, spec.dtype, shape_text(spec.shape)) for spec in file.outputs]
    )


def _layer_types(file: EngineFile) -> str:
    counts = [(f"{count:>5}", layer_kind) for layer_kind, count in _layer_type_counts(file)]
    return f"layers: {len(file.layers)}\n" + columns(counts)


def _plugins(file: EngineFile) -> str:
    layers = [layer for layer in file.layers if layer.get("op")]
    if not layers:
        return "plugin layers: 0"
    counts = ", ".join(f"{count} {op}" for op, count in node_table.plugin_counts(file.layers).items())
    return f"plugin layers: {counts}\n" + columns(_plugin_row(layer) for layer in layers)


def lowerings(file: EngineFile) -> list[dict[str, Any]]:
    """Every use of an op, with its "node", "op", "kind", "lowering" and "why"; none where an older bridge wrote it."""
    rows = file.metadata.get("lowerings")
    return rows if isinstance(rows, list) else []


def lowering_counts(file: EngineFile) -> list[tuple[str, str, str]]:
    """Counts of the lowerings, as text: "<count> <op>", the lowering, and the reason."""
    counts = Counter((row["op"], row["lowering"], row["why"]) for row in lowerings(file))
    return [(f"{count} {op}", lowering, why) for (op, lowering, why), count in counts.items()]


def _lowerings(file: EngineFile) -> str:
    rows = lowering_counts(file)
    return "lowerings\n" + columns(rows) if rows else ""


def passes(file: EngineFile) -> list[dict[str, Any]]:
    """The outcomes of the passes: rows with "pass", "replaced", "what", "line" and "module"."""
    rows = file.metadata.get("passes")
    return rows if isinstance(rows, list) else []


def pass_counts(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Counts of the outcomes, as text: "<count> <pass>", the op or the reason to decline, and the line."""
    counts = Counter((row["pass"], row["replaced"], row["what"], row["line"]) for row in rows)
    return [
        (f"{count} {name}", what if replaced else f"not replaced: {what}", line)
        for (name, replaced, what, line), count in counts.items()
    ]


def _passes(file: EngineFile) -> str:
    rows = pass_counts(passes(file))
    return "passes\n" + columns(rows) if rows else ""


def _plugin_row(layer: Mapping[str, Any]) -> tuple[str, ...]:
    attributes = dict(layer.get("attributes", {}))
    tensors = str(attributes.pop(TENSORS_FIELD, "")).replace("=", "").replace(",", ", ")
    values = ", ".join(f"{name}={value}" for name, value in attributes.items())
    return layer["name"], f"{layer['op']}({tensors})", values, _outputs_text(layer)


def _layers(file: EngineFile) -> str:
    """One row per layer; the name may be long and comes last."""
    origins = {name: node["name"] for node in node_table.nodes(file) or [] for name in node["layers"]}
    rows = [
        (node_table.layer_kind(layer), _outputs_text(layer), *_origin(layer, origins), layer["name"])
        for layer in file.layers
    ]
    return "every layer\n" + columns(rows)


def _origin(layer: Mapping[str, Any], origins: Mapping[str, str]) -> list[str]:
    return [f"of {origins[layer['name']][:_LONGEST]}" if layer["name"] in origins else ""] if origins else []


def _outputs_text(layer: Mapping[str, Any]) -> str:
    outputs = layer.get("outputs", [])
    return ", ".join(f"{output.get('dtype')} {shape_text(output.get('shape', ()))}" for output in outputs)


def _section(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [(f"{title}: {len(rows)}", *headings), *((f"  {name}", *rest) for name, *rest in rows)]
    return columns(lines, indent=0, heading=True)


def _layer_type_counts(file: EngineFile) -> list[tuple[str, int]]:
    return Counter(layer["type"] for layer in file.layers).most_common()


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value
