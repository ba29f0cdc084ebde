"""Writes docs/results.md, and README's table, from what was recorded: nothing in these is written by hand.

    python docs/generate_results.py

It reads the baselines of `bridge bench`, the records of its `--generated`, the tables that `bridge zoo --record` wrote,
and docs/measurements/*.json, which hold what other programs measured: title, gpu, date, versions, what, columns,
rows and notes. A file there that is named as a baseline holds notes on it.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from bridge.bench import report, tactics
from bridge.bench.generated import table
from bridge.bench.workload import Workload
from bridge.bench.workloads import WORKLOADS
from bridge.zoo import record
from bridge.zoo import table as zoo_table

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"
BASELINES = ROOT / "bridge" / "bench" / "baselines"
MEASUREMENTS = ROOT / "docs" / "measurements"
ZOO = ROOT / "models" / "README.md"
README = ROOT / "README.md"

_INTRODUCTION = """# Results

<!-- Written by docs/generate_results.py: change what it reads, and run it. -->

Every table names its GPU, date and versions. The engines on the H200 ran with **TensorRT-RTX 1.6.1.120** and the ONNX
parser of 1.7.1.116. TensorRT-RTX 1.7.1 loads no engine on that GPU ("does not support this compute capability"). bridge
accepts the older version only with `BRIDGE_ANY_TENSORRT=1`. No GPU that TensorRT-RTX 1.7.1 supports was at hand. How
things are measured: [Measuring](measuring.md).
"""
_COLUMNS = ("workload", "dtype", "µs", "cold", "% of floor", "error", "PyTorch's", "peers")
_ENGINE_COLUMNS = (*_COLUMNS[:4], "engine", *_COLUMNS[4:])  # where an engine keeps what the PyTorch op makes each time
_CHOICE_COLUMNS = ("op", "workload", "dtype", "choice", "µs", "fastest", "µs", "ratio")
_OPS = """
Times are microseconds by CUDA graph replay, with a warm and with a cold L2 cache. "engine" is the plugin's time, which
keeps what it makes of constants, such as packed weights; the PyTorch op makes it in every call. "% of floor" is the
floor as a share of the time. The floor is what memory, arithmetic and a launch need at least, as measured in the same
run; "-" stands where the run went below it. Errors are against a wider dtype, as a fraction of the largest value:
bridge's, then that of PyTorch's operations in the same dtype. "conv2d" is a bound: a convolution of the same size
without offsets.
"""


def page() -> str:
    """The page as it should be."""
    baselines = [part for path in sorted(BASELINES.glob("*.json")) for part in _ops(path)]
    others = [part for path in sorted(MEASUREMENTS.glob("[0-9]*.json")) for part in _measurement(path)]
    generated = [part for path in sorted(BASELINES.glob("generated/*.json")) for part in _generated(path)]
    return "\n".join([_INTRODUCTION, *baselines, *generated, *_models(), *others])


def _ops(path: Path) -> Iterable[str]:
    """A baseline of `bridge bench`."""
    run = json.loads(path.read_text())
    yield f"## Ops on {run['gpu']}\n"
    yield _where({**run, "date": report.dates(run)})
    yield _OPS
    notes = MEASUREMENTS / path.name
    yield _notes(json.loads(notes.read_text()) if notes.is_file() else {})
    if path.with_suffix(".png").is_file():
        plot = f"../{path.with_suffix('.png').relative_to(ROOT)}"
        yield f"![Growing sizes with their floors, and a roofline]({plot})\n"
    for op in dict.fromkeys(row["op"] for row in run["rows"]):
        rows = [row for row in run["rows"] if row["op"] == op]
        yield f"### {op}\n"
        in_engines = any("engine" in row for row in rows)
        yield _table(_ENGINE_COLUMNS if in_engines else _COLUMNS, (_cells(row, in_engines) for row in rows))
        yield from _unmeasured(rows)
    yield from _choices(run["rows"])


def _choices(rows: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Where the op's own choice of a kernel loses time; nothing in runs that did not measure tactics."""
    measured = [row for row in rows if tactics.behind(row) is not None]
    if not measured:
        return
    slow = [row for row in measured if (tactics.behind(row) or 0) > tactics.BEHIND]
    yield "### Choice of kernels\n"
    yield (
        f"Of {len(measured)} workloads whose op has several kernels, its own choice is within {tactics.BEHIND - 1:.0%} "
        f"of the fastest in {len(measured) - len(slow)}. Kernels go by number, and are timed in turns.\n"
    )
    if slow:
        yield _table(_CHOICE_COLUMNS, map(report.choice_cells, slow))


def _cells(row: Mapping[str, Any], in_engines: bool) -> tuple[str, ...]:
    peers = [f"{name} {_time(peer['us'])}" for name, peer in row["peers"].items() if "us" in peer]
    engine = row.get("engine", {})
    share = row["floor_us"] / row["us"]
    return (
        _workload(row),
        row["dtype"],
        _time(row["us"]),
        _time(row["cold_us"]),
        *((_time(engine["us"]) if "us" in engine else "",) if in_engines else ()),
        f"{share:.0%}" if share <= 1 else "-",
        f"{row['error']:.1e}",
        f"{row['pytorch_error']:.1e}",
        "; ".join(peers),
    )


def _workload(row: Mapping[str, Any]) -> str:
    """Its name, and the sizes that make it: the fields that are not as in every workload of its class."""
    found = [w for w in WORKLOADS if (w.op, w.name, w.dtype) == (row["op"], row["workload"], row["dtype"])]
    shared = {field.name for field in fields(Workload)}
    sizes = [
        f"{field.name} {_size(getattr(workload, field.name))}"
        for workload in found[:1]
        for field in fields(workload)
        if field.name not in shared and getattr(workload, field.name) != field.default
        if not callable(getattr(workload, field.name))  # which makes a tensor, as the name says
    ]
    return row["workload"] + (f" ({', '.join(sizes)})" if sizes else "")


def _size(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _unmeasured(rows: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Why peers have no time, a line each."""
    missing = {(name, peer["missing"]) for row in rows for name, peer in row["peers"].items() if "us" not in peer}
    if missing:
        yield "Not measured:\n"
        yield "\n".join(f"- {name}: {_text(reason)}" for name, reason in sorted(missing)) + "\n"


_GENERATED = """
Plugins that bridge generated, each in an engine of its own whose batch is dynamic. Beside it are the same kernels by
Triton itself, or the same function by torch.compile, for this shape and for any. All are replayed from CUDA graphs, in
turns. Times are microseconds; "tuned" is after `bridge.tune`, and "ratio" the engine's time by that of the fastest
other. Errors are against float64, as a fraction of the largest value: the engine's, then that of PyTorch in the same
dtype.
"""
_GENERATED_COLUMNS = ("workload", "dtype", "by", "launches", "µs", "tuned", "others", "ratio", "error", "PyTorch's")


def _generated(path: Path) -> Iterable[str]:
    """A record of `bridge bench --generated`."""
    run = json.loads(path.read_text())
    yield f"## Generated plugins on {run['gpu']}\n"
    yield _where(run)
    yield _GENERATED
    yield _table(_GENERATED_COLUMNS, map(_generated_cells, run["generated"]))


def _generated_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"{row['workload']} ({', '.join(map(_size, map(tuple, row['shapes'])))})",
        row["dtype"],
        row["kernels"],
        "/".join(map(str, sorted(set(row["launches"])))),
        _time(row["us"]),
        _time(row["tuned"]["us"]) if row["tuned"] else "",
        "; ".join(f"{name} {_time(peer['us'])}" for name, peer in row["peers"].items()),
        f"{table.ratio(row):.2f}",
        f"{table.fastest(row)['error']:.1e}",
        f"{row['pytorch_error']:.1e}",
    )


def _models() -> Iterable[str]:
    """The tables of `bridge zoo`, their headings one level down."""
    introduction, found, tables = ZOO.read_text().partition("`bridge zoo --record` wrote what follows.\n")
    if not found:
        raise ValueError(f"{ZOO} is not as `bridge zoo --record` writes it: {introduction[:80]!r}")
    yield "## Models"
    yield re.sub(r"\n(#+) ", r"\n#\1 ", tables)


_README_TABLE = re.compile(r"(?<=<!-- by docs/generate_results.py -->\n\n).*?(?=\n\n)", re.DOTALL)


def readme() -> str:
    """README.md as it should be: its table has the models of the zoo's newest run in real sizes."""
    run = max((run for run in record.read(ZOO.parent) if run["full"] and run["gpu"]), key=lambda run: run["date"])
    heading = (f"{run['gpu']}, {run['date']}", *zoo_table.BACKENDS.values())
    rows = map(_readme_cells, run["rows"])
    return _README_TABLE.sub(lambda _: _table(heading, rows).strip(), README.read_text(), count=1)


def _readme_cells(row: Mapping[str, Any]) -> Sequence[str]:
    """The least time of each backend; a star where the time was over before all of its variants were measured."""
    cells = dict(zip(zoo_table.HEADER, zoo_table.cells(row), strict=True))
    unfinished = {name for name, found in row.get("ways", {}).items() if "unfinished" in found}
    times = (
        cells[heading].partition(",")[0] + (r"\*" if name in unfinished else "")
        for name, heading in zoo_table.BACKENDS.items()
    )
    return row["model"], *times


def _measurement(path: Path) -> Iterable[str]:
    """One file of docs/measurements."""
    found = json.loads(path.read_text())
    yield f"## {found['title']}\n"
    yield _where(found) + "\n"
    yield f"{found['what']}\n"
    yield _table(found["columns"], ([_cell(value) for value in row] for row in found["rows"]))
    yield _notes(found)


def _notes(found: Mapping[str, Any]) -> str:
    return "".join(f"- {note}\n" for note in found.get("notes", []))


def _where(found: Mapping[str, Any]) -> str:
    """GPU, driver, date and versions."""
    driver = [f"driver {found['driver']}"] if "driver" in found else []
    versions = [f"{name} {version}" for name, version in found["versions"].items()]
    return ", ".join([found["gpu"], *driver, *versions, found["date"]]) + "."


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _time(us: float) -> str:
    return f"{us:.3g}" if us < 1000 else f"{us:.0f}"


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _text(text: str) -> str:
    """Of an exception, as Markdown: what looks like markup is none."""
    return " ".join(text.split()).replace("*", r"\*").replace("_", r"\_").replace("<", r"\<").replace("|", r"\|")


if __name__ == "__main__":
    PAGE.write_text(page())
    README.write_text(readme())
