"""`bridge bench`: measures ops, generated plugins, an engine, or models by lowering, on the GPU of this machine."""

import argparse
import json
from pathlib import Path
from typing import Any

from bridge.base import log
from bridge.base.files import read_object
from bridge.base.text import columns
from bridge.cli import library_options
from bridge.cli.command import UsageError
from bridge.core.signature import NAMESPACE
from bridge.errors import BridgeError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.usage = (
        "bridge bench [OP ...] [options]\n       bridge bench --lowerings MODEL.py [MODEL.py ...] [-- MODEL FLAGS]"
    )
    parser.add_argument("ops", nargs="*", metavar="OP", help="default: every op that has workloads")
    library_options.add_library(parser)
    parser.add_argument("--workload", action="append", default=[], metavar="TEXT", help="those with this in their name")
    parser.add_argument("--growth", action="store_true", help="also series of growing sizes, beside --peers alone")
    parser.add_argument("--peers", nargs="*", metavar="PEER", help="only these; none given: no peer at all")
    parser.add_argument("--json", metavar="FILE", help="write what was measured")
    parser.add_argument("--plot", metavar="FILE.png", help="draw growing sizes and a roofline; needs matplotlib")
    parser.add_argument("--record", action="store_true", help="keep this run as the baseline of this GPU")
    parser.add_argument("--baseline", metavar="FILE", help='compare with a recorded run; "recorded": this GPU\'s own')
    parser.add_argument(
        "--against",
        nargs="+",
        metavar="FILE",
        help="measure nothing: show, plot, record or compare this run, or parts",
    )
    parser.add_argument("--engine", metavar="FILE", help="measure this engine, its kernels and its layers instead")
    parser.add_argument(
        "--lowerings", nargs="+", metavar="MODEL.py", help="tune these model files, and compare plugin, native and auto"
    )
    parser.add_argument(
        "--generated", nargs="*", metavar="TEXT", help="measure generated plugins instead, with TEXT in their name"
    )
    parser.add_argument("--tune", action="store_true", help="with --generated: also after bridge.tune, in minutes")
    parser.add_argument("--list", action="store_true", help="list workloads and peers")


def run(options: argparse.Namespace) -> int:
    """Measures; returns 1 where a result is wrong or slower than it should be."""
    try:
        for name, measure in _INSTEAD.items():
            if getattr(options, name) is not None:
                _check_alone(options, name)
                return measure(options)
        if options.tune:
            raise ValueError("--tune goes with --generated; bridge.tune and `bridge compile --tune` tune a model")
        return _ops(options)
    except (BridgeError, BrokenPipeError):
        raise  # some are of the kinds below, and have exit codes of their own
    except ValueError as error:
        raise UsageError(str(error)) from error
    except (RuntimeError, ImportError, OSError) as error:
        log.say(f"bridge: {error}")
        return 7


def _engine(options: argparse.Namespace) -> int:
    from bridge.bench import engine

    def progress(so_far: dict[str, Any], text: str) -> None:
        _keep(so_far, options.json)
        print(text, end="\n\n", flush=True)

    engine.measure(options.engine, progress)
    return 0


def _lowerings(options: argparse.Namespace) -> int:
    from bridge.bench import model_lowerings

    result = model_lowerings.run(options.lowerings, options.model_argv, lambda so_far: _keep(so_far, options.json))
    print(model_lowerings.table(result))
    return 0 if model_lowerings.auto_is_best_everywhere(result) else 1


def _generated(options: argparse.Namespace) -> int:
    from bridge.bench.generated import measure, table, workload

    chosen = workload.select(options.generated)
    if options.record and options.generated:
        raise ValueError(f"a record has every workload: leave {' '.join(options.generated)} out, or --record")
    if options.list:
        print(columns([(each.name, each.dtype, each.kernels, str(list(each.shapes))) for each in chosen], indent=0))
        return 0
    result = measure.run(chosen, lambda so_far: _note_generated(so_far, options.json), options.tune)
    print(table.table(result))
    if options.record:
        print(f"\nrecorded in {table.record(result)}")
    return 0 if all(map(table.is_right, result["generated"])) else 1


_INSTEAD = {"engine": _engine, "lowerings": _lowerings, "generated": _generated}  # of ops
_TOGETHER = {"generated": ("list", "record", "tune")}  # beside --json


def _check_alone(options: argparse.Namespace, name: str) -> None:
    """ValueError: another flag is given, which says how ops are measured."""
    others = (
        "ops",
        "workload",
        "growth",
        "peers",
        "plot",
        "record",
        "baseline",
        "against",
        "list",
        "module",
        "tune",
        *_INSTEAD,
    )
    fitting = (name, *_TOGETHER.get(name, ()))
    given = [other for other in others if other not in fitting and getattr(options, other) not in (None, False, [])]
    given += ["library"] if options.library != NAMESPACE else []
    if given or options.peers == []:
        flags = {"ops": "OP", "module": "--import"}
        names = [flags.get(other, f"--{other}") for other in given] or ["--peers"]
        allowed = ", ".join(f"--{each}" for each in ("json", *fitting[1:]))
        raise ValueError(f"--{name} goes with {allowed} alone, not with {', '.join(names)}")


def _ops(options: argparse.Namespace) -> int:
    from bridge.bench import baseline, measure, peers, plots, report, workloads

    groups = ("default", "growth") if options.growth else ("default",)
    namespace = library_options.library_of(options).namespace
    _check_baseline(options)
    chosen = workloads.select(options.ops, options.workload, groups, workloads.discover(namespace))
    known = peers.discover(namespace)
    if options.list:
        print(_listing(chosen, known))
        return 0
    if options.plot:
        plots.pyplot()  # before minutes are spent on what it cannot draw
    others = [] if options.peers == [] else peers.select(options.peers or [], known)
    if options.against:
        runs = [read_object(path, "run of `bridge bench`") for path in options.against]
        if len(runs) == 1 and "rows" not in runs[0]:
            print(_recorded(runs[0], options.record))
            return 0
        result = baseline.merged(runs)
        before = baseline.load(options.baseline, result["gpu"]) if options.baseline else None
    else:
        before = baseline.load(options.baseline, measure.gpu(), chosen) if options.baseline else None
        if options.record:
            baseline.check_complete(((w.op, w.name, w.dtype) for w in chosen), measure.gpu_here() or "")
        named = options.peers is not None
        result = measure.run(chosen, others, lambda so_far: _note(so_far, options.json), beside_growth=named)
    print(report.table(result))
    if options.plot:
        plots.plot(result, options.plot)
    found = report.regressions(result, before) if before else []
    print("\n".join(["", "slower than the baseline", *(f"  {line}" for line in found)]) if found else "", end="")
    if options.record:
        print(f"\nrecorded in {baseline.record(result)}")
    return 1 if found or not all(row["right"] for row in result["rows"]) else 0


def _check_baseline(options: argparse.Namespace) -> None:
    """ValueError: a baseline in bridge is asked for, and these are not bridge's ops."""
    if options.library != NAMESPACE and (options.record or options.baseline == "recorded"):
        raise ValueError(
            f"the baselines in bridge are of its own ops, not of {options.library}'s: keep a run with --json FILE, and "
            "compare with it by --baseline FILE"
        )


def _recorded(result: dict[str, Any], record: bool) -> str:
    """A run that is not of ops. record: whether to keep it, too."""
    from bridge.bench import engine, model_lowerings
    from bridge.bench.generated import table as generated

    if "generated" in result:
        note = f"\n\nrecorded in {generated.record(result)}" if record else ""
        return generated.table(result) + note
    if record:
        raise ValueError("runs of ops and of generated plugins are recorded, and this is of an engine, or of models")
    return model_lowerings.table(result) if "models" in result else engine.table(result)


def _note(result: dict[str, Any], path: str | None) -> None:
    """Says what was measured last, and writes all that there is."""
    row = result["rows"][-1]
    log.say(f"{row['op']}, {row['workload']}, {row['dtype']}: {row['us']:.1f} us")
    _keep(result, path)


def _note_generated(result: dict[str, Any], path: str | None) -> None:
    row = result["generated"][-1]
    log.say(f"{row['workload']}, {row['dtype']}: {row.get('failed') or '{:.1f} us'.format(row['us'])}")
    _keep(result, path)


def _keep(result: dict[str, Any], path: str | None) -> None:
    """Writes what there is so far: a run may be cut off."""
    if path:
        Path(path).write_text(json.dumps(result, indent=1) + "\n")


def _listing(chosen: Any, known: Any) -> str:
    rows = [(w.op, w.name, w.dtype, f"{w.bytes() / 1e6:.1f} MB", f"{w.flops() / 1e9:.1f} GFLOP") for w in chosen]
    peers = [(peer.op, peer.name, "a bound" if peer.bound else "") for peer in known]
    return columns(rows, indent=0) + "\n\npeers\n" + columns(peers)
