"""Results of the zoo as text and as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from bridge.base.text import columns, markdown_table
from bridge.zoo import variants

Row = Mapping[str, Any]
NOT_DONE = "not done"  # the reason after a timeout begins with it
BACKENDS = {  # name in the JSON and on the command line → heading. The JSON's key for their results is "ways"
    "eager": "eager",
    "inductor": "Inductor",
    "torch_tensorrt": "torch_tensorrt",
    "native": "native layers",
    "bridge": "bridge",
}
HEADER = (
    *("model", "parameters", "plugin layers", "engines", "graph breaks", "graph error", "error"),
    *(*BACKENDS.values(), "ratio"),
)
PRODUCTS_HEADER = ("model", "bridge", "of it", "its slowest", "Inductor", "of it", "its slowest")
_MOSTLY = 0.5  # of a call's time in matrix products: then the table says whose they are
_KERNEL_WIDTH = 60
_INTRODUCTION = """# Models

Scripts that read from top to bottom, one family a file. Each takes `--weights FILE`, `--dtype`, `--target`, `--batch`,
`-o` and flags of its sizes; where there is a GPU it runs the engine and compares with eager, and with `--bench` also
measures it. `bridge zoo` compiles all of those that have a list `ZOO`; `bridge zoo --record` wrote what follows.

"""
_LEGEND = """Of each model the newest results on a GPU, in its real size or the one of the tests.

Weights are random. Times are milliseconds a call, CPU included, medians. Each backend is shown at its best, in the
words that follow: eager, torch_tensorrt and engines called plainly or replayed from a CUDA graph, torch_tensorrt by its
Python and its C++ runtime, Inductor in its modes default, reduce-overhead and max-autotune. "ratio" is the time of the
fastest other by bridge's. Engines and graph breaks are bridge's, and those of torch_tensorrt without bridge stand
beside its time. "native layers" is one engine without bridge's kernels: its graph rewrites are off, and ops that a
model has become layers of TensorRT's own where it has any. "graph error" is what bridge's graph rewrites change in the
eager result, "error" the engine's difference from eager, both as a fraction of the largest value of a result; in
brackets that of eager itself from eager in the next wider dtype, where it was measured. "not done": the time for the
model was over, in which it also waited for others while they measured.
"""
_PRODUCTS = """
### Matrix products

Share of the GPU's time in matrix products, by kernel name, where it is more than half: whose kernels they are, and the
slowest one with its share. Convolutions, and attention in one kernel, are none.
"""
_MEMORY = """
### GPU memory

MiB that the process took for the weights and the calls of each backend, by PyTorch, TensorRT and libraries together.
"""


def text(result: Mapping[str, Any]) -> str:
    """The run as text for a terminal."""
    failures = failure_lines(result)
    table = columns([HEADER, *map(cells, result["rows"])], indent=0, heading=True)
    memory_rows, product_rows = memory(result), products(result)
    memories = ["", "GPU memory, MiB", columns(memory_rows, indent=0, heading=True)] if memory_rows else []
    memories += ["", "matrix products", columns(product_rows, indent=0, heading=True)] if product_rows else []
    return "\n".join(
        [
            environment_text(result),
            "",
            table,
            *memories,
            *(["", "what failed, or was not done", *failures] if failures else []),
        ]
    )


def markdown(runs: Sequence[Mapping[str, Any]]) -> str:
    """Runs as Markdown, for models/README.md."""
    return _INTRODUCTION + "\n".join([_LEGEND, *(line for run in runs for line in _run_lines(run))])


def _run_lines(run: Mapping[str, Any]) -> list[str]:
    """One run as Markdown. Its "note", if it has one, says what is otherwise than the legend says."""
    flags = [
        f"- {row['model']}: `{' '.join(row['argv']) or 'no flags'}`, {_input_text(row, run['full'])}"
        for row in run["rows"]
    ]
    failures = [f"- {line}" for line in failure_lines(run)] or ["Nothing."]
    size = "" if run["full"] else ", small configurations"
    parts = [f"## {run['gpu'] or 'No GPU'}, {run['date']}{size}", "", environment_text(run) + ".", ""]
    parts += [run["note"], ""] if "note" in run else []
    parts += [markdown_table(HEADER, map(cells, run["rows"]))]
    if memory_rows := memory(run):
        parts += [_MEMORY, markdown_table(memory_rows[0], memory_rows[1:])]
    if product_rows := products(run):
        parts += [_PRODUCTS, markdown_table(product_rows[0], product_rows[1:])]
    return [*parts, "", "### Configurations", "", *flags, "", "### What failed, or was not done", "", *failures, ""]


def environment_text(result: Mapping[str, Any]) -> str:
    """GPU, date and versions."""
    engines = [row["ways"]["bridge"] for row in result["rows"] if "target" in row.get("ways", {}).get("bridge", {})]
    tensorrt = sorted({measurement["tensorrt"] for measurement in engines})
    targets = " and ".join(sorted({measurement["target"] for measurement in engines}))
    gpu = result["gpu"] or f"no GPU, engines for {targets}"
    versions = [f"{name} {version}" for name, version in result["versions"].items()]
    return ", ".join([gpu, *([f"driver {result['driver']}"] if "driver" in result else []), *versions, *tensorrt]) + (
        f", {result['date']}, {'full' if result['full'] else 'small'} configurations"
    )


def cells(row: Row) -> tuple[str, ...]:
    """The cells of one model, in the order of HEADER."""
    measurements = row.get("ways", {})
    bridge_row, tensorrt_row = measurements.get("bridge", {}), measurements.get("torch_tensorrt", {})
    plugins = ", ".join(f"{count} {name}" for name, count in sorted(bridge_row.get("plugins", {}).items()))
    split_text = (
        f" ({tensorrt_row['engines']} engines, {tensorrt_row['graph_breaks']} breaks)"
        if "engines" in tensorrt_row
        else ""
    )
    breaks = measurements.get("inductor", {}).get("graph_breaks", 0)
    rounding = _error(measurements.get("eager", {}).get("wider", {}).get("error"))
    return (
        row["model"],
        _count(row["parameters"]) if "parameters" in row else "",
        plugins or ("none" if "plugins" in bridge_row else ""),
        str(bridge_row.get("engines", "")),
        str(bridge_row.get("graph_breaks", "")),
        _error(bridge_row.get("graph_error")),
        " ".join(filter(None, (_error(bridge_row.get("error")), rounding and f"({rounding})"))),
        _best(measurements.get("eager", {})),
        _best(measurements.get("inductor", {})) + (f" ({breaks} breaks)" if breaks else ""),
        _best(tensorrt_row) + split_text,
        _best(measurements.get("native", {})),
        _best(bridge_row) or _best(row),
        _ratio(measurements),
    )


def _ratio(measurements: Mapping[str, Row]) -> str:
    """The time of the fastest other backend by bridge's, and its name; empty where one of them has none."""
    times = {name: found[1] for name, row in measurements.items() if (found := variants.best(row))}
    own = times.pop("bridge", None)
    if own is None or not times:
        return ""
    name = min(times, key=lambda each: times[each])
    return f"{times[name] / own:.2f} ({BACKENDS[name]})"


def products(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The matrix products of models that are mostly those: a heading, then a row per model; empty without one."""
    rows = []
    for row in result["rows"]:
        found = [row.get("ways", {}).get(name, {}).get("products") for name in ("bridge", "inductor")]
        if any(each and each["share"] > _MOSTLY for each in found):
            rows.append((row["model"], *(cell for each in found for cell in _product_cells(each))))
    return [PRODUCTS_HEADER, *rows] if rows else []


def _product_cells(found: Row | None) -> tuple[str, str, str]:
    if found is None:
        return "", "", ""
    slowest = [f"{kernel['share']:.0%} {_shortened(kernel['name'])}" for kernel in found["kernels"][:1]]
    makers = ", ".join(f"{maker} {share:.0%}" for maker, share in found["by"].items())
    return f"{found['share']:.0%}", makers, "".join(slowest)


def _shortened(name: str) -> str:
    return name if len(name) <= _KERNEL_WIDTH else name[: _KERNEL_WIDTH - 1] + "…"


def memory(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The MiB of each backend: a heading, then one row per model; empty where none was measured."""
    rows = []
    for row in result["rows"]:
        measurements = [row.get("ways", {}).get(name, {}) for name in BACKENDS]
        if any("memory_mib" in measurement for measurement in measurements):
            rows.append((row["model"], *(str(measurement.get("memory_mib", "")) for measurement in measurements)))
    return [("model", *BACKENDS.values()), *rows] if rows else []


def failure_lines(result: Mapping[str, Any]) -> list[str]:
    """One line per failure."""
    lines = []
    for row in result["rows"]:
        lines += [f"{row['model']}: {row['failed']}"] if "failed" in row else []
        for name, measurement in row.get("ways", {}).items():
            parts = variants.failures(measurement).items()
            lines += [f"{', '.join(filter(None, (row['model'], name, part)))}: {reason}" for part, reason in parts]
    return lines


def all_compiled(result: Mapping[str, Any]) -> bool:
    """Whether bridge built every engine that it was asked for. Failures of other backends do not count."""
    return not any("failed" in row.get("ways", {}).get("bridge", row) for row in result["rows"])


def timed_out(measurement: Row) -> bool:
    """Whether the measurement of a backend, or of a model, ran into its time limit."""
    return str(measurement.get("failed", "")).startswith(NOT_DONE)


def _count(parameters: int) -> str:
    return f"{parameters / 1e6:.1f} M" if parameters >= 1e6 else f"{parameters / 1e3:.1f} k"


def _best(measurement: Row) -> str:
    """The least time, and how it came about where that is not by plain calls."""
    found = variants.best(measurement)
    if found:
        how, us = found
        return f"{us / 1e3:.3g}" + (f", {how}" if how else "")
    if "failed" in measurement:
        return "not done" if timed_out(measurement) else "failed"
    return ""


def _error(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}" if value else "0"


def _input_text(row: Row, full: bool) -> str:
    inputs = " and ".join("x".join(map(str, shape)) for shape in row.get("inputs", []))
    return ", ".join(part for part in (full and row.get("about"), row.get("dtype", ""), inputs) if part)
