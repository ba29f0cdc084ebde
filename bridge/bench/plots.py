"""Plots a run of the bench: times over growing sizes with their floors, and rooflines. Needs matplotlib, but no GPU."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

from bridge.bench.ceilings import rate
from bridge.bench.report import dates

Row = Mapping[str, Any]
Series = dict[tuple[str, str], dict[str, list[tuple[int, Row]]]]
_SIZE = re.compile(r"([a-z]+(?: [a-z]+)*) (\d+)(, .*)?")
_COLUMNS = 3
_MOST_NAMES = 40  # of points of a panel; more would hide them
_MARKERS = {"float32": "s", "float16": "o", "bfloat16": "^"}
_LINES = {"float32": "-", "float16": "--", "bfloat16": ":"}


def pyplot() -> Any:
    """matplotlib.pyplot, drawing into files. ImportError: it is not installed."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(f"--plot needs matplotlib ({error}): pip install 'bridge-tensorrt[bench]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def plot(run: Mapping[str, Any], path: str) -> None:
    """Writes the figure of a run to a file. ValueError: the run has no rows."""
    figure = draw(run)
    figure.savefig(path)
    pyplot().close(figure)


def draw(run: Mapping[str, Any]) -> Any:
    """The figure: one panel per series of growing sizes, then workloads with products, then those without."""
    panels = _panels(run)
    if not panels:
        raise ValueError("the run has no rows to draw")
    columns = min(_COLUMNS, len(panels))
    panel_rows = math.ceil(len(panels) / columns)
    size = 6.5 * columns, 4.5 * panel_rows
    figure, axes = pyplot().subplots(panel_rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis, panel in zip(axes.flat, panels, strict=False):
        panel(axis)
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    figure.suptitle(f"{run['gpu']}, {dates(run)}")
    return figure


def _panels(run: Mapping[str, Any]) -> list[Callable[[Any], None]]:
    panels: list[Callable[[Any], None]] = []
    series = growth(run["rows"])
    for (op, unit), variants in series.items():
        panels.append(partial(_draw_growth, op=op, unit=unit, variants=variants))
    drawn = {id(row) for variants in series.values() for points in variants.values() for _, row in points}
    rest = [row for row in run["rows"] if id(row) not in drawn]
    products = [row for row in rest if row["flops"]]
    others = [row for row in rest if not row["flops"]]
    if products:
        panels.append(partial(_draw_roofline, rows=products, ceilings=run["ceilings"]))
    if others:
        panels.append(partial(_draw_bandwidth, rows=others, ceilings=run["ceilings"]))
    return panels


def growth(rows: Sequence[Row]) -> Series:
    """Rows whose workload is named by words and a size: by op and words, then by dtype and suffix, sorted by size.

    A single row is no series.
    """
    series: Series = {}
    for row in rows:
        if match := _SIZE.fullmatch(row["workload"]):
            unit, size, rest = match.groups(default="")
            variants = series.setdefault((row["op"], unit), {})
            variants.setdefault(row["dtype"] + rest, []).append((int(size), row))
    sorted_by_size = {
        name: {variant: sorted(points, key=itemgetter(0)) for variant, points in variants.items() if len(points) > 1}
        for name, variants in series.items()
    }
    return {name: variants for name, variants in sorted_by_size.items() if variants}


def _draw_growth(axis: Any, op: str, unit: str, variants: Mapping[str, Sequence[tuple[int, Row]]]) -> None:
    for variant, points in variants.items():
        sizes = [size for size, _ in points]
        (line,) = axis.loglog(sizes, [row["us"] for _, row in points], "o-", label=f"bridge, {variant}")
        floor = [row["floor_us"] for _, row in points]
        axis.loglog(sizes, floor, "--", color=line.get_color(), label=f"floor, {variant}")
        for name in dict.fromkeys(name for _, row in points for name in row["peers"]):
            timed = [(size, row["peers"][name]["us"]) for size, row in points if "us" in row["peers"].get(name, {})]
            if timed:
                axis.loglog(*zip(*timed, strict=True), ".-", linewidth=0.8, label=f"{name}, {variant}")
    axis.set(title=op, xlabel=unit, ylabel="us")
    ticks = sorted({size for points in variants.values() for size, _ in points})
    axis.set_xticks(ticks, [str(size) for size in ticks])
    axis.minorticks_off()
    axis.legend(fontsize="small", loc="upper left")


def _draw_roofline(axis: Any, rows: Sequence[Row], ceilings: Mapping[str, float]) -> None:
    """Rate of products over arithmetic intensity, under the copy's slope and the ceiling of each dtype."""
    intensities = [row["flops"] / row["bytes"] for row in rows]
    copy = ceilings["bytes_per_us"]
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        most = rate(dtype, ceilings)
        xs = sorted({min(intensities) / 4, most / copy, max(max(intensities), most / copy) * 4})
        roof = [min(x * copy, most) / 1e6 for x in xs]
        axis.loglog(xs, roof, f"k{_LINES.get(dtype, '-')}", linewidth=1, label=f"ceiling, {dtype}")
    _scatter(axis, rows, intensities, [row["flops"] / row["us"] / 1e6 for row in rows])
    axis.set(title="roofline", xlabel="operations of products a byte", ylabel="TFLOP/s")


def _draw_bandwidth(axis: Any, rows: Sequence[Row], ceilings: Mapping[str, float]) -> None:
    """Rate of traffic over the bytes of a call, under the rate of a copy and the time of a launch."""
    sizes = [row["bytes"] for row in rows]
    copy, launch = ceilings["bytes_per_us"], ceilings["launch_us"]
    knee = copy * launch
    xs = sorted({min(*sizes, knee) / 2, knee, max(*sizes, knee) * 2})
    axis.loglog(xs, [min(copy, x / launch) / 1e6 for x in xs], "k-", linewidth=1, label="copy and launch")
    _scatter(axis, rows, sizes, [row["bytes"] / row["us"] / 1e6 for row in rows])
    axis.set(title="ops without products", xlabel="bytes, each counted once", ylabel="TB/s")


def _scatter(axis: Any, rows: Sequence[Row], xs: Sequence[float], ys: Sequence[float]) -> None:
    """One point per row: a colour per op, a marker per dtype. The legend of both, and of lines, is below the panel."""
    palette = pyplot().get_cmap("tab20")
    colours = {op: palette(number % 20) for number, op in enumerate(dict.fromkeys(row["op"] for row in rows))}
    for row, x, y in zip(rows, xs, ys, strict=True):
        marker = _MARKERS.get(row["dtype"], "D")
        axis.loglog([x], [y], marker, color=colours[row["op"]], label=f"_{row['op']}, {row['dtype']}")
        if len(rows) <= _MOST_NAMES:
            axis.annotate(row["workload"], (x, y), xytext=(3, 3), textcoords="offset points", fontsize=5)
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        axis.plot([], [], _MARKERS.get(dtype, "D"), color="grey", label=dtype)
    for op, colour in colours.items():
        axis.plot([], [], "o", color=colour, label=op)
    axis.legend(fontsize="x-small", loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, frameon=False)
