"""Results of the zoo as text and as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from bridge.base.text import columns

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
    *(*BACKENDS.values(), "with a CUDA graph"),
)
_INTRODUCTION = """# Models

Scripts that read from top to bottom, one family a file. Each takes `--weights FILE`, `--dtype`, `--target`, `--batch`,
`-o` and flags of its sizes; where there is a GPU it runs the engine and compares with eager, and with `--bench` also
measures it. `bridge zoo` compiles all of those that have a list `ZOO`; `bridge zoo --record` wrote what follows.

"""
_LEGEND = """
Weights are random. Times are milliseconds a call, CPU included, medians; engines and graph breaks are bridge's, and
those of torch_tensorrt without bridge stand beside its time, by its Python runtime where its C++ one was made for
another TensorRT-RTX. "native layers" is one engine without bridge's kernels: its graph rewrites are off, and ops that a
model has become layers of TensorRT's own where it has any. "graph error" is what bridge's graph rewrites change in the
eager result, "error" the engine's difference from eager, both as a fraction of the largest value of a result. "not
done": the time for the model was over, in which it also waited for others while they measured.
"""
_MEMORY = """
## GPU memory

MiB that the process took for the weights and the calls of each backend, by PyTorch, TensorRT and libraries together.
"""


def text(result: Mapping[str, Any]) -> str:
    """The run as text for a terminal."""
    failures = failure_lines(result)
    table = columns([HEADER, *map(cells, result["rows"])], indent=0, heading=True)
    memory_rows = memory(result)
    memories = ["", "GPU memory, MiB", columns(memory_rows, indent=0)] if memory_rows else []
    return "\n".join(
        [
            environment_text(result),
            "",
            table,
            *memories,
            *(["", "what failed, or was not done", *failures] if failures else []),
        ]
    )


def markdown(result: Mapping[str, Any]) -> str:
    """The run as Markdown, for models/README.md."""
    lines = [_line(HEADER), _line(["---"] * len(HEADER)), *(_line(cells(row)) for row in result["rows"])]
    flags = [
        f"- {row['model']}: `{' '.join(row['argv']) or 'no flags'}`, {_input_text(row, result['full'])}"
        for row in result["rows"]
    ]
    failures = [f"- {line}" for line in failure_lines(result)] or ["Nothing."]
    parts = [environment_text(result) + ".", _LEGEND, *lines]
    if memory_rows := memory(result):
        parts += [_MEMORY, _line(memory_rows[0]), _line(["---"] * len(memory_rows[0])), *map(_line, memory_rows[1:])]
    parts += ["", "## Configurations", "", *flags, "", "## What failed, or was not done", ""]
    return _INTRODUCTION + "\n".join([*parts, *failures]) + "\n"


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
    return (
        row["model"],
        _count(row["parameters"]) if "parameters" in row else "",
        plugins or ("none" if "plugins" in bridge_row else ""),
        str(bridge_row.get("engines", "")),
        str(bridge_row.get("graph_breaks", "")),
        _error(bridge_row.get("graph_error")),
        _error(bridge_row.get("error")),
        _time(measurements.get("eager", {})),
        _time(measurements.get("inductor", {})) + (f" ({breaks} breaks)" if breaks else ""),
        _time(tensorrt_row) + split_text,
        _time(measurements.get("native", {})),
        _time(bridge_row) or _time(row),
        _time(bridge_row.get("cuda_graph", {})),
    )


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
        measurements = row.get("ways", {})
        measurements = measurements | {"bridge with a CUDA graph": measurements.get("bridge", {}).get("cuda_graph", {})}
        lines += [
            f"{row['model']}, {name}: {measurement['failed']}"
            for name, measurement in measurements.items()
            if "failed" in measurement
        ]
    return lines


def all_compiled(result: Mapping[str, Any]) -> bool:
    """Whether bridge built every engine that it was asked for. Failures of other backends do not count."""
    return not any("failed" in row.get("ways", {}).get("bridge", row) for row in result["rows"])


def timed_out(measurement: Row) -> bool:
    """Whether the measurement of a backend, or of a model, ran into its time limit."""
    return str(measurement.get("failed", "")).startswith(NOT_DONE)


def _count(parameters: int) -> str:
    return f"{parameters / 1e6:.1f} M" if parameters >= 1e6 else f"{parameters / 1e3:.1f} k"


def _time(measurement: Row) -> str:
    if "failed" in measurement:
        return "not done" if timed_out(measurement) else "failed"
    return f"{measurement['us'] / 1e3:.3g}" if "us" in measurement else ""


def _error(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}" if value else "0"


def _input_text(row: Row, full: bool) -> str:
    inputs = " and ".join("x".join(map(str, shape)) for shape in row.get("inputs", []))
    return ", ".join(part for part in (full and row.get("about"), row.get("dtype", ""), inputs) if part)


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"
