"""A run of the bench as text, and compared with a baseline."""

from collections.abc import Mapping, Sequence
from typing import Any

from bridge.base.text import columns
from bridge.bench import tactics

_SLOWER = 0.05  # than the baseline, beyond its spread, is a regression
_LAUNCH_BOUND_US = 5.0  # below it a microsecond more is noise
_DIFFERS = 0.05  # of the largest value; a larger difference is shown beside a peer's time
Key = tuple[str, str, str]


def dates(run: Mapping[str, Any]) -> str:
    """The date of a run; of rows of several dates that of most of them, then each other one with its ops."""
    rows: dict[str, list[str]] = {run["date"]: []}
    for row in run["rows"]:
        rows.setdefault(row.get("date", run["date"]), []).append(row["op"])
    most = max(rows, key=lambda date: len(rows[date]))
    others = (
        f"{date} for {', '.join(dict.fromkeys(ops))}" for date, ops in sorted(rows.items()) if date != most and ops
    )
    return "; ".join([most, *others])


def table(run: Mapping[str, Any]) -> str:
    """The run as text: a line per workload with its peers, then the peers that are missing."""
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    ceilings = run["ceilings"]
    head = [
        ("GPU", f"{run['gpu']}, driver {run['driver']}, {dates(run)}"),
        ("versions", versions),
        ("copy", f"{ceilings['bytes_per_us'] / 1e6:.2f} TB/s"),
        *([("copy in L2", f"{ceilings['l2_bytes_per_us'] / 1e6:.2f} TB/s")] if "l2_bytes_per_us" in ceilings else []),
        *((f"{d} products", f"{ceilings[f'flops_per_us_{d}'] / 1e6:.0f} TFLOP/s") for d in _dtypes(ceilings)),
        ("launch", f"{ceilings['launch_us']:.2f} us"),
    ]
    heading = (
        *("op", "workload", "dtype", "us", "10-90 %", "cold", "engine", "floor", "floor %", "error", "PyTorch's"),
        "peers",
    )
    text = [columns(head, indent=0), columns([heading, *map(_cells, run["rows"])], indent=0, heading=True)]
    text += choices(run["rows"])
    peers = [item for row in run["rows"] for item in row["peers"].items()]
    peers += [(name, row[name]) for row in run["rows"] for name in ("engine", "tactics") if name in row]
    missing = {f"{name}: {peer['missing']}" for name, peer in peers if "us" not in peer}
    if missing:
        text.append("\n".join(["not measured", *(f"  {line}" for line in sorted(missing))]))
    below_floor = [f"  {', '.join(key_of(row))}" for row in run["rows"] if _is_below_floor(row)]
    if below_floor:
        text.append("\n".join(["no floor: the ceilings of this run are lower than what these reached", *below_floor]))
    wrong = [row for row in run["rows"] if not row["right"]]
    text += [f"WRONG: {', '.join(key_of(row))}: error {row['error']:.1e}{_wrong_tactics(row)}" for row in wrong]
    return "\n\n".join(text)


def choices(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the op's own choice of a kernel loses, where that is more than noise; nothing where none was measured."""
    measured = [row for row in rows if tactics.behind(row) is not None]
    if not measured:
        return []
    slow = [row for row in measured if (tactics.behind(row) or 0) > tactics.BEHIND]
    share = f"{len(measured) - len(slow)} of {len(measured)}"
    says = f"the own choice of a kernel: within {tactics.BEHIND - 1:.0%} of the fastest in {share}"
    if not slow:
        return [says]
    heading = ("op", "workload", "dtype", "choice", "us", "fastest", "us", "ratio")
    return [says, columns([heading, *map(choice_cells, slow)], indent=0, heading=True)]


def choice_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A row's own choice of a tactic beside its fastest one, with the ratio of their times."""
    number, us = tactics.fastest(row)
    own = row["tactics"]["own"]
    return (
        *key_of(row),
        "?" if own is None else str(own),
        f"{tactics.own_us(row):.2f}",
        str(number),
        f"{us:.2f}",
        f"{tactics.behind(row):.2f}",
    )


def _wrong_tactics(row: Mapping[str, Any]) -> str:
    return f", of tactics {', '.join(map(str, row['wrong']))}" if row.get("wrong") else ""


def _dtypes(ceilings: Mapping[str, float]) -> list[str]:
    return [name.removeprefix("flops_per_us_") for name in ceilings if name.startswith("flops_per_us_")]


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    peers = [
        f"{name} {peer['us']:.1f} ({peer['us'] / row['us']:.2f}x{_peer_note(peer)})"
        for name, peer in row["peers"].items()
        if "us" in peer
    ]
    return (
        *key_of(row),
        f"{row['us']:.2f}",
        f"{row['low_us']:.2f}-{row['high_us']:.2f}",
        f"{row['cold_us']:.2f}",
        f"{row['engine']['us']:.2f}" if "us" in row.get("engine", {}) else "",
        f"{row['floor_us']:.2f} {row.get('floor', '')}".rstrip(),
        "-" if _is_below_floor(row) else f"{row['floor_us'] / row['us']:.0%}",
        f"{row['error']:.1e}",
        f"{row['pytorch_error']:.1e}",
        "; ".join(peers),
    )


def _is_below_floor(row: Mapping[str, Any]) -> bool:
    """Whether a row took less than its floor, which is then invalid.

    Ceilings are measured. Older runs counted neither the L2 nor the tensor cores.
    """
    return bool(row["floor_us"] > row["us"])


def _peer_note(peer: Mapping[str, Any]) -> str:
    if peer["bound"]:
        return ", a bound"
    difference = peer.get("difference", 0.0)
    return f", differs by {difference:.2g}" if difference > _DIFFERS else ""


def key_of(row: Mapping[str, Any]) -> Key:
    """The key of a row: op, workload and dtype."""
    return row["op"], row["workload"], row["dtype"]


def regressions(run: Mapping[str, Any], baseline: Mapping[str, Any]) -> list[str]:
    """One line for each row that is slower than in the baseline, wrong, or missing.

    ValueError: the baseline is of another GPU, or of another version of the file.
    """
    if run["schema"] != baseline.get("schema"):
        raise ValueError(f"the baseline has schema {baseline.get('schema')}, this run {run['schema']}; record it again")
    if run["gpu"] != baseline["gpu"]:
        raise ValueError(f"the baseline is of {baseline['gpu']}, and this run of {run['gpu']}; record one for each GPU")
    current = {key_of(row): row for row in run["rows"]}
    lines = []
    for recorded in baseline["rows"]:
        key = key_of(recorded)
        row = current.get(key)
        if row is None:
            lines.append(f"{', '.join(key)}: not in this run")
        elif row["us"] > _allowed(recorded):
            lines.append(f"{', '.join(key)}: {row['us']:.2f} us, the baseline {recorded['us']:.2f} us")
    lines += [f"{', '.join(key)}: wrong, error {row['error']:.1e}" for key, row in current.items() if not row["right"]]
    return lines


def _allowed(recorded: Mapping[str, Any]) -> float:
    spread = recorded["high_us"] - recorded["low_us"]
    noise = 0.5 if recorded["us"] < _LAUNCH_BOUND_US else 0.0
    return recorded["us"] + max(_SLOWER * recorded["us"], spread, noise)
