"""`bridge bench`: measures the ops, or an engine, on the GPU of this machine."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

BASELINES = Path(__file__).parent / "bench" / "baselines"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("ops", nargs="*", metavar="OP", help="default: every op that has workloads")
    parser.add_argument("--workload", action="append", default=[], metavar="TEXT", help="those with this in their name")
    parser.add_argument("--growth", action="store_true", help="also the series of growing sizes")
    parser.add_argument("--peers", nargs="*", metavar="PEER", help="only these; none given: no peer at all")
    parser.add_argument("--json", metavar="FILE", help="write what was measured")
    parser.add_argument("--plot", metavar="FILE.png", help="draw the series of growing sizes; needs matplotlib")
    parser.add_argument("--baseline", metavar="FILE", help='compare with a recorded run; "recorded": this GPU\'s own')
    parser.add_argument("--against", metavar="FILE", help="measure nothing: show, plot or compare this run")
    parser.add_argument("--engine", metavar="FILE", help="measure this engine instead")
    parser.add_argument("--list", action="store_true", help="list workloads and peers")


def run(options: argparse.Namespace) -> int:
    """Measures; returns 1 where a result is wrong or slower than the baseline."""
    from bridge.bench import measure, peers, report, workloads

    try:
        groups = ("default", "growth") if options.growth else ("default",)
        chosen = workloads.select(options.ops, options.workload, groups)
        if options.list:
            print(_listing(chosen, peers.PEERS))
            return 0
        if options.engine:
            from bridge.bench import engine

            print(engine.table(engine.measure(options.engine)))
            return 0
        others = [] if options.peers == [] else peers.select(options.peers or [])
        if options.against:
            result = json.loads(Path(options.against).read_text())
        else:
            result = measure.run(chosen, others, lambda so_far: _note(so_far, options.json))
        print(report.table(result))
        if options.plot:
            report.plot(result, options.plot)
        found = report.regressions(result, _baseline(options.baseline, result["gpu"])) if options.baseline else []
    except ValueError as error:
        print(f"bridge: {error}", file=sys.stderr)
        return 2
    except (RuntimeError, ImportError, OSError) as error:
        print(f"bridge: {error}", file=sys.stderr)
        return 7
    print("\n".join(["", "slower than the baseline", *(f"  {line}" for line in found)]) if found else "", end="")
    return 1 if found or not all(row["right"] for row in result["rows"]) else 0


def _note(result: dict[str, Any], path: str | None) -> None:
    """Says what was measured last, and writes all that there is: a run may be cut off."""
    row = result["rows"][-1]
    print(f"{row['op']}, {row['workload']}, {row['dtype']}: {row['us']:.1f} us", file=sys.stderr)
    if path:
        Path(path).write_text(json.dumps(result, indent=1) + "\n")


def _baseline(name: str, gpu: str) -> dict[str, Any]:
    path = BASELINES / f"{gpu.lower().replace(' ', '_')}.json" if name == "recorded" else Path(name)
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in BASELINES.glob("*.json"))) or "none"
        raise ValueError(f"there is no baseline {path.name}; recorded in bridge are {known}")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _listing(chosen: Any, known: Any) -> str:
    from bridge.table import columns

    rows = [(w.op, w.name, w.dtype, f"{w.bytes() / 1e6:.1f} MB", f"{w.flops() / 1e9:.1f} GFLOP") for w in chosen]
    peers = [(peer.op, peer.name, "a bound" if peer.bound else "") for peer in known]
    return columns(rows, indent=0) + "\n\npeers\n" + columns(peers)
