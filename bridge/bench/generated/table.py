"""A run of `bridge bench --generated` as text, and what is recorded of it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bridge.base.text import columns
from bridge.bench import baseline
from bridge.bench.generated.workload import TUNED, workloads

_SLOWER = 1.05  # times the best other; more is said

Row = Mapping[str, Any]


def best_peer(row: Row) -> tuple[str, Mapping[str, Any]]:
    """The fastest of those that compute the same without TensorRT: its name, and what was measured."""
    return min(row["peers"].items(), key=lambda item: item[1]["us"])


def fastest(row: Row) -> Mapping[str, Any]:
    """What was measured of the engine: after bridge.tune where it ran, else as it is compiled at first."""
    return row.get(TUNED) or row


def ratio(row: Row) -> float:
    """The engine's time by the best other's."""
    return float(fastest(row)["us"] / best_peer(row)[1]["us"])


def is_right(row: Row) -> bool:
    """Whether it was measured, and all engines' results are right."""
    return "failed" not in row and row["right"] and fastest(row)["right"]


def table(result: Mapping[str, Any]) -> str:
    """The whole run: a line for each workload, then what failed, is wrong or slow."""
    head = [
        ("GPU", f"{result['gpu']}, driver {result['driver']}, {result['date']}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in result["versions"].items())),
    ]
    rows = result["generated"]
    heading = ("workload", "dtype", "by", "launches", "us", "10-90 %", "tuned", "best other", "us", "ratio", "error")
    measured = [_cells(row) for row in rows if "failed" not in row]
    lines = [text for row in rows if (text := _remark(row))]
    return "\n\n".join(filter(None, [columns(head, 0), columns([heading, *measured], 0), "\n".join(lines)]))


def _cells(row: Row) -> tuple[str, ...]:
    name, peer = best_peer(row)
    return (
        row["workload"],
        row["dtype"],
        row["kernels"],
        "/".join(map(str, sorted(set(row["launches"])))),
        f"{row['us']:.2f}",
        f"{row['low_us']:.2f}-{row['high_us']:.2f}",
        f"{row[TUNED]['us']:.2f}" if row.get(TUNED) else "",
        name,
        f"{peer['us']:.2f}",
        f"{ratio(row):.2f}",
        f"{fastest(row)['error']:.1e}, {name}'s {peer['error']:.1e}",
    )


def _remark(row: Row) -> str:
    name = f"{row['workload']}, {row['dtype']}, {row['kernels']}"
    if "failed" in row:
        return f"FAILED: {name}: {row['failed']}"
    if not is_right(row):
        return f"WRONG: {name}: error {row['error']:.1e}, PyTorch's {row['pytorch_error']:.1e}"
    if ratio(row) > _SLOWER:
        return f"SLOWER: {name}: {ratio(row):.2f} times {best_peer(row)[0]}"
    return ""


def path_of(gpu: str) -> Path:
    """The path of a GPU's record, which need not exist."""
    usual = baseline.path_of(gpu)
    return usual.parent / "generated" / usual.name


def record(result: Mapping[str, Any]) -> Path:
    """Keeps a run in bridge, for the results in the documentation, and returns the path.

    ValueError: a workload is missing, failed or is wrong. OSError: bridge's folder cannot be written to.
    """
    right = {(row["workload"], row["dtype"], row["kernels"]) for row in result["generated"] if is_right(row)}
    lacking = [each.name for each in workloads() if (each.name, each.dtype, each.kernels) not in right]
    if lacking:
        raise ValueError(f"not recorded: {', '.join(lacking)} failed, or is wrong, or was not measured")
    path = path_of(result["gpu"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path
