"""The tables of the page that need no script, as HTML. Every text is escaped."""

import html
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from bridge.base.text import shape_text, size
from bridge.engine import generated_table, node_table
from bridge.engine.explain import lowerings, passes
from bridge.engine.report.data import shown
from bridge.engine.report.measured import Row
from bridge.engine_file.contents import EngineFile

_MOST_ROWS = 5000  # of a table
_SHORT = 24  # letters of a cell that stays on one line
_WRITERS = ("bridge", "torch", "torch_tensorrt")

Section = tuple[str, Sequence[str], Sequence[Sequence[object]], bool]
"""(title, headings, rows, open at first)"""


def text(value: object) -> str:
    """A value as HTML, in a direction of its own."""
    return f"<bdi>{html.escape(shown(value))}</bdi>"


def facts(file: EngineFile, rows: Sequence[Row]) -> str:
    """What the whole engine is, and how long its measured layers take together, as a list of terms."""
    return "".join(f"<div><dt>{text(term)}</dt><dd>{text(value)}</dd></div>" for term, value in _facts(file, rows))


def _facts(file: EngineFile, rows: Sequence[Row]) -> Iterator[tuple[str, object]]:
    metadata = file.metadata
    yield "target", file.target
    yield "TensorRT", f"{file.flavour} {file.tensorrt_version}"
    yield "engine", size(len(file.engine))
    if isinstance(metadata.get("parameters"), int):
        yield "parameters", f"{metadata['parameters']:,}"
    if isinstance(metadata.get("build_seconds"), (int, float)):
        yield "built in", f"{metadata['build_seconds']:.1f} s"
    yield "layers", f"{len(file.layers):,}"
    counts = node_table.plugin_counts(file.layers)
    yield "plugin layers", ", ".join(f"{count} {op}" for op, count in counts.items()) or "none"
    if file.embeds_libraries:
        yield "plugin libraries", "in the engine"
    if rows:
        yield "measured", f"{sum(row.us for row in rows) / 1000:.3f} ms in {len(rows):,} layers"
    yield from ((name, metadata[name]) for name in _WRITERS if metadata.get(name))


def tables(file: EngineFile, rows: Sequence[Row]) -> str:
    """The sections below the picture; those without rows are left out."""
    sections = [_profile(file), _outputs(file), _unmatched(rows)]
    sections += [of(file) for of in _SECTIONS]
    return "\n".join(_section(*section) for section in sections if section[2])


def _section(title: str, headings: Sequence[str], rows: Sequence[Sequence[object]], opened: bool) -> str:
    cells = "".join(f"<th scope=col>{text(heading)}</th>" for heading in headings)
    left = f"<p>The first {_MOST_ROWS:,} are shown.</p>" if len(rows) > _MOST_ROWS else ""
    return (
        f"<details class=section{' open' if opened else ''}>"
        f"<summary>{text(title)} <span class=count>{len(rows):,}</span></summary>\n{left}"
        f"<div class=scroll><table><thead><tr>{cells}</tr></thead>\n<tbody>{_body(rows[:_MOST_ROWS])}</tbody></table>"
        "</div></details>"
    )


def _body(rows: Iterable[Sequence[object]]) -> str:
    return "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)


def _cell(value: object) -> str:
    return f"<td{' class=short' if len(str(value)) <= _SHORT else ''}>{text(value)}</td>"


def _profile(file: EngineFile) -> Section:
    rows = [(s.name, s.dtype, shape_text(s.min), shape_text(s.opt), shape_text(s.max)) for s in file.inputs]
    return "Inputs and their profile", ("name", "dtype", "min", "opt", "max"), rows, True


def _outputs(file: EngineFile) -> Section:
    rows = [(spec.name, spec.dtype, shape_text(spec.shape)) for spec in file.outputs]
    return "Outputs", ("name", "dtype", "shape"), rows, True


def _unmatched(rows: Sequence[Row]) -> Section:
    """Measured layers that the network has under no name: TensorRT made them."""
    found = [(row.name, f"{row.us:.1f}") for row in rows if not row.layers]
    return "Measured, of no layer by name", ("name", "µs"), found, True


def _passes(file: EngineFile) -> Section:
    rows = [
        (row["pass"], "replaced" if row["replaced"] else "not replaced", row["what"], row["module"], row["line"])
        for row in passes(file)
    ]
    return "Graph rewrites", ("pass", "outcome", "what, or why not", "module", "line of the model"), rows, True


def _lowerings(file: EngineFile) -> Section:
    rows = [(row["node"], row["op"], row["lowering"], row["why"], row["kind"]) for row in lowerings(file)]
    return "Lowerings", ("node", "op", "lowering", "reason", "call"), rows, True


def _generated(file: EngineFile) -> Section:
    headings = ("made from", "plugin", "regions", "kernels", "launches", "workspace", "code", "library")
    return "Generated plugins", headings, [generated_table.line(row) for row in generated_table.rows(file)], True


def _generated_details(file: EngineFile) -> Section:
    rows = [(row["name"], *detail) for row in generated_table.rows(file) for detail in generated_table.details(row)]
    return "Kernels of generated plugins", ("plugin", "what", "name", "where, or which"), rows, False


def _libraries(file: EngineFile) -> Section:
    rows = [(row["namespace"], row["file"], row["origin"], row["sha256"]) for row in file.metadata.get("libraries", ())]
    return "Plugin libraries", ("namespace", "file", "origin", "SHA-256"), rows, True


def _plugins(file: EngineFile) -> Section:
    counts = node_table.plugin_counts(file.layers)
    rows = [(name, version, counts[name]) for name, version in file.plugins.items()]
    return "Plugins", ("op", "plugin version", "layers"), rows, True


def _kinds(file: EngineFile) -> Section:
    counts = Counter(node_table.layer_kind(layer) for layer in file.layers)
    return "Kinds of layers", ("kind", "layers"), counts.most_common(), False


def _modules(file: EngineFile) -> Section:
    rows = [tuple(row.values()) for row in node_table.modules(file)]
    return "Modules of the model", ("module", "nodes", "layers", "plugin layers"), rows, False


_SECTIONS = (_passes, _lowerings, _plugins, _generated, _generated_details, _libraries, _kinds, _modules)
