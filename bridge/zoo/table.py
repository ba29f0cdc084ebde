"""Results of the zoo as text and as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from bridge.base.text import columns

Row = Mapping[str, Any]
NOT_DONE = "not done"  # how the reasons begin of what ended with its time
WAYS = {  # as the JSON and the flags name them, and in headings
    "eager": "eager",
    "inductor": "Inductor",
    "torch_tensorrt": "torch_tensorrt",
    "native": "native layers",
    "bridge": "bridge",
}
HEADER = (
    *("model", "parameters", "plugin layers", "engines", "graph breaks", "graph error", "error"),
    *(*WAYS.values(), "with a CUDA graph"),
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

MiB that the process took for the weights and the calls of each way, by PyTorch, TensorRT and libraries together.
"""


def text(result: Mapping[str, Any]) -> str:
    """For a terminal."""
    failures = failed(result)
    table = columns([HEADER, *map(cells, result["rows"])], indent=0)
    used = memory(result)
    memories = ["", "GPU memory, MiB", columns(used, indent=0)] if used else []
    return "\n".join(
        [where(result), "", table, *memories, *(["", "what failed, or was not done", *failures] if failures else [])]
    )


def markdown(result: Mapping[str, Any]) -> str:
    """models/README.md."""
    lines = [_line(HEADER), _line(["---"] * len(HEADER)), *(_line(cells(row)) for row in result["rows"])]
    flags = [
        f"- {row['model']}: `{' '.join(row['argv']) or 'no flags'}`, {_size(row, result['full'])}"
        for row in result["rows"]
    ]
    failures = [f"- {line}" for line in failed(result)] or ["Nothing."]
    parts = [where(result) + ".", _LEGEND, *lines]
    if used := memory(result):
        parts += [_MEMORY, _line(used[0]), _line(["---"] * len(used[0])), *map(_line, used[1:])]
    parts += ["", "## Configurations", "", *flags, "", "## What failed, or was not done", ""]
    return _INTRODUCTION + "\n".join([*parts, *failures]) + "\n"


def where(result: Mapping[str, Any]) -> str:
    """GPU, date and versions."""
    built = [row["ways"]["bridge"] for row in result["rows"] if "target" in row.get("ways", {}).get("bridge", {})]
    tensorrt = sorted({way["tensorrt"] for way in built})
    targets = " and ".join(sorted({way["target"] for way in built}))
    gpu = result["gpu"] or f"no GPU, engines for {targets}"
    versions = [f"{name} {version}" for name, version in result["versions"].items()]
    return ", ".join([gpu, *([f"driver {result['driver']}"] if "driver" in result else []), *versions, *tensorrt]) + (
        f", {result['date']}, {'full' if result['full'] else 'small'} configurations"
    )


def cells(row: Row) -> tuple[str, ...]:
    """Of one model, as HEADER names them."""
    ways = row.get("ways", {})
    ours, theirs = ways.get("bridge", {}), ways.get("torch_tensorrt", {})
    plugins = ", ".join(f"{count} {name}" for name, count in sorted(ours.get("plugins", {}).items()))
    pieces = f" ({theirs['engines']} engines, {theirs['graph_breaks']} breaks)" if "engines" in theirs else ""
    breaks = ways.get("inductor", {}).get("graph_breaks", 0)
    return (
        row["model"],
        _count(row["parameters"]) if "parameters" in row else "",
        plugins or ("none" if "plugins" in ours else ""),
        str(ours.get("engines", "")),
        str(ours.get("graph_breaks", "")),
        _error(ours.get("graph_error")),
        _error(ours.get("error")),
        _time(ways.get("eager", {})),
        _time(ways.get("inductor", {})) + (f" ({breaks} breaks)" if breaks else ""),
        _time(theirs) + pieces,
        _time(ways.get("native", {})),
        _time(ours) or _time(row),
        _time(ours.get("cuda_graph", {})),
    )


def memory(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The MiB of each way, a model a row after a heading; empty where none was measured."""
    rows = []
    for row in result["rows"]:
        ways = [row.get("ways", {}).get(name, {}) for name in WAYS]
        if any("memory_mib" in way for way in ways):
            rows.append((row["model"], *(str(way.get("memory_mib", "")) for way in ways)))
    return [("model", *WAYS.values()), *rows] if rows else []


def failed(result: Mapping[str, Any]) -> list[str]:
    """A line for everything that failed."""
    found = []
    for row in result["rows"]:
        found += [f"{row['model']}: {row['failed']}"] if "failed" in row else []
        ways = row.get("ways", {})
        ways = ways | {"bridge with a CUDA graph": ways.get("bridge", {}).get("cuda_graph", {})}
        found += [f"{row['model']}, {name}: {way['failed']}" for name, way in ways.items() if "failed" in way]
    return found


def good(result: Mapping[str, Any]) -> bool:
    """Whether bridge made the engine of every model, if it was to; what others do not is no failure of the run."""
    return not any("failed" in row.get("ways", {}).get("bridge", row) for row in result["rows"])


def not_done(way: Row) -> bool:
    """Whether a way, or a model, ended with its time."""
    return str(way.get("failed", "")).startswith(NOT_DONE)


def _count(parameters: int) -> str:
    return f"{parameters / 1e6:.1f} M" if parameters >= 1e6 else f"{parameters / 1e3:.1f} k"


def _time(way: Row) -> str:
    if "failed" in way:
        return "not done" if not_done(way) else "failed"
    return f"{way['us'] / 1e3:.3g}" if "us" in way else ""


def _error(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}" if value else "0"


def _size(row: Row, full: bool) -> str:
    inputs = " and ".join("x".join(map(str, shape)) for shape in row.get("inputs", []))
    return ", ".join(part for part in (full and row.get("about"), row.get("dtype", ""), inputs) if part)


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"
