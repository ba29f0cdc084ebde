"""A run of the bench as a picture: growing sizes with their floors, and rooflines. Needs matplotlib, and no GPU."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

from bridge.bench.ceilings import rate

Row = Mapping[str, Any]
Series = dict[tuple[str, str], dict[str, list[tuple[int, Row]]]]
_SIZE = re.compile(r"([a-z]+) (\d+)(, .*)?")
_COLUMNS = 3
_MARKERS = {"float32": "s", "float16": "o", "bfloat16": "^"}
_LINES = {"float32": "-", "float16": "--", "bfloat16": ":"}


def pyplot() -> Any:
    """matplotlib's, which draws into files. ImportError: it is not installed."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(f"--plot needs matplotlib ({error}): pip install 'bridge-tensorrt[bench]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def plot(run: Mapping[str, Any], path: str) -> None:
    """Writes the picture of a run. ValueError: the run has no rows."""
    figure = draw(run)
    figure.savefig(path)
    pyplot().close(figure)


def draw(run: Mapping[str, Any]) -> Any:
    """The figure: a panel a series of growing sizes, then what arithmetic bounds, then what memory does."""
    panels = _panels(run)
    if not panels:
        raise ValueError("the run has no rows to draw")
    columns = min(_COLUMNS, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure, axes = pyplot().subplots(lines, columns, figsize=(6.5 * columns, 4.5 * lines), squeeze=False)
    for axis, panel in zip(axes.flat, panels, strict=False):
        panel(axis)
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    figure.suptitle(f"{run['gpu']}, {run['date']}")
    figure.tight_layout()
    return figure


def _panels(run: Mapping[str, Any]) -> list[Callable[[Any], None]]:
    found: list[Callable[[Any], None]] = []
    series = growth(run["rows"])
    for (op, unit), kinds in series.items():
        found.append(partial(_draw_growth, op=op, unit=unit, kinds=kinds))
    drawn = {id(row) for kinds in series.values() for points in kinds.values() for _, row in points}
    rest = [row for row in run["rows"] if id(row) not in drawn]
    products = [row for row in rest if row["flops"]]
    others = [row for row in rest if not row["flops"]]
    if products:
        found.append(partial(_draw_roofline, rows=products, ceilings=run["ceilings"]))
    if others:
        found.append(partial(_draw_bandwidth, rows=others, ceilings=run["ceilings"]))
    return found


def growth(rows: Sequence[Row]) -> Series:
    """Rows whose workload is a word and a number: by op and word, then by dtype and what follows the number, in the
    order of the number. One row alone is no series."""
    series: Series = {}
    for row in rows:
        if found := _SIZE.fullmatch(row["workload"]):
            unit, size, rest = found.groups(default="")
            kinds = series.setdefault((row["op"], unit), {})
            kinds.setdefault(row["dtype"] + rest, []).append((int(size), row))
    sorted_by_size = {
        name: {kind: sorted(points, key=itemgetter(0)) for kind, points in kinds.items() if len(points) > 1}
        for name, kinds in series.items()
    }
    return {name: kinds for name, kinds in sorted_by_size.items() if kinds}


def _draw_growth(axis: Any, op: str, unit: str, kinds: Mapping[str, Sequence[tuple[int, Row]]]) -> None:
    for kind, points in kinds.items():
        sizes = [size for size, _ in points]
        (ours,) = axis.loglog(sizes, [row["us"] for _, row in points], "o-", label=f"bridge, {kind}")
        floor = [row["floor_us"] for _, row in points]
        axis.loglog(sizes, floor, "--", color=ours.get_color(), label=f"floor, {kind}")
        for name in dict.fromkeys(name for _, row in points for name in row["peers"]):
            known = [(size, row["peers"][name]["us"]) for size, row in points if "us" in row["peers"].get(name, {})]
            if known:
                axis.loglog(*zip(*known, strict=True), ".-", linewidth=0.8, label=f"{name}, {kind}")
    axis.set(title=op, xlabel=unit, ylabel="us")
    ticks = sorted({size for points in kinds.values() for size, _ in points})
    axis.set_xticks(ticks, [str(size) for size in ticks])
    axis.minorticks_off()
    axis.legend(fontsize="small", loc="upper left")


def _draw_roofline(axis: Any, rows: Sequence[Row], ceilings: Mapping[str, float]) -> None:
    """Arithmetic intensity against the rate of products, under the copy's slope and each dtype's flat roof."""
    intensities = [row["flops"] / row["bytes"] for row in rows]
    copy = ceilings["bytes_per_us"]
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        most = rate(dtype, ceilings)
        spots = sorted({min(intensities) / 4, most / copy, max(max(intensities), most / copy) * 4})
        roof = [min(spot * copy, most) / 1e6 for spot in spots]
        axis.loglog(spots, roof, f"k{_LINES.get(dtype, '-')}", linewidth=1, label=f"ceiling, {dtype}")
    _scatter(axis, rows, intensities, [row["flops"] / row["us"] / 1e6 for row in rows])
    axis.set(title="roofline", xlabel="operations of products a byte", ylabel="TFLOP/s")
    axis.legend(fontsize="x-small", loc="lower right")


def _draw_bandwidth(axis: Any, rows: Sequence[Row], ceilings: Mapping[str, float]) -> None:
    """Bytes of a call against the rate of its traffic, under the copy's and what a launch's time allows."""
    sizes = [row["bytes"] for row in rows]
    copy, launch = ceilings["bytes_per_us"], ceilings["launch_us"]
    knee = copy * launch
    spots = sorted({min(*sizes, knee) / 2, knee, max(*sizes, knee) * 2})
    axis.loglog(spots, [min(copy, spot / launch) / 1e6 for spot in spots], "k-", linewidth=1, label="copy and launch")
    _scatter(axis, rows, sizes, [row["bytes"] / row["us"] / 1e6 for row in rows])
    axis.set(title="ops without products", xlabel="bytes, each counted once", ylabel="TB/s")
    axis.legend(fontsize="x-small", loc="lower right")


def _scatter(axis: Any, rows: Sequence[Row], places: Sequence[float], heights: Sequence[float]) -> None:
    """A point a row: a colour an op, a marker a dtype, with the workload's name beside it."""
    colours = {op: f"C{number}" for number, op in enumerate(dict.fromkeys(row["op"] for row in rows))}
    seen = set()
    for row, x, y in zip(rows, places, heights, strict=True):
        label = f"{row['op']}, {row['dtype']}"
        marker = _MARKERS.get(row["dtype"], "D")
        axis.loglog([x], [y], marker, color=colours[row["op"]], label=None if label in seen else label)
        axis.annotate(row["workload"], (x, y), xytext=(3, 3), textcoords="offset points", fontsize=5)
        seen.add(label)
