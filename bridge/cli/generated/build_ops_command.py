"""`bridge build-ops`: calls of operators become libraries of plugins to ship."""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridge.base import log
from bridge.base.text import as_json, columns, size
from bridge.doors import module_calls

if TYPE_CHECKING:
    from bridge.generate.folders import Generated

_DTYPES = ("float32", "float16", "bfloat16")
DESCRIPTION = (
    "Make a library of plugins for each namespace of operators, for several GPUs, without one. With it engines load\n"
    "where their operators were never compiled: BRIDGE_GENERATED_PATH lists the folders of such libraries.\n\n"
    + (module_calls.__doc__ or "").partition("\n\n")[2]
    + "\nExample: bridge build-ops acme_norm.plugins --targets sm80,sm86,sm89,sm90,sm120 -o plugins"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add = parser.add_argument
    add("module", metavar="MODULE", help="what to import, such as acme_norm.plugins")
    add("--targets", required=True, type=_names, metavar="SM,SM", help="GPUs to build for, such as sm86,sm120")
    add("-o", "--output", required=True, type=Path, metavar="DIR", help="the folder to write to")
    add(
        "--dtypes",
        type=_dtypes,
        default=(),
        metavar="DTYPE,DTYPE",
        help=f"cast the floating-point tensors of every call to each of these: {', '.join(_DTYPES)}",
    )
    add("--sources", action="store_true", help="also write the sources, which `bridge eject` takes")
    add("--json", action="store_true", help="as JSON")


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in text.split(",")))


def _dtypes(text: str) -> list[str]:
    if unknown := [name for name in _names(text) if name not in _DTYPES]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: expected some of {', '.join(_DTYPES)}")
    return _names(text)


def run(options: argparse.Namespace) -> int:
    """Builds, and returns the exit code."""
    import torch

    from bridge.generate.build import capabilities_of
    from bridge.generate.shipping import ship

    started = time.monotonic()
    capabilities_of(options.targets)
    dtypes = [getattr(torch, name) for name in options.dtypes]
    listed = module_calls.calls_of(options.module)
    calls = [each for call in listed for each in module_calls.in_dtypes(call, dtypes)]
    log.say(f"bridge: tracing {len(calls)} calls")
    instances = module_calls.instances_of(calls)
    log.say(f"bridge: compiling kernels for {', '.join(options.targets)}")
    built = ship(instances, options.targets, options.output, sources=options.sources)
    rows = [row for library in built for row in rows_of(library)]
    if options.json:
        print(as_json({"libraries": [_library(each) for each in built], "plugins": rows}))
    else:
        print(_text(built, rows, time.monotonic() - started))
    return 0


def rows_of(library: "Generated") -> Iterator[dict[str, Any]]:
    """A row for every plugin and target. seconds: of compiling its kernels, of which several run at a time."""
    for op in library.ops:
        for target in library.description["targets"]:
            codes = [kernel["targets"][target] for kernel in op["kernels"] if target in kernel["targets"]]
            yield {
                "operator": op["operator"],
                "plugin": f"{library.namespace}::{op['name']}",
                "dtypes": list(dict.fromkeys(each["dtype"] for each in op["inputs"] if each["dtype"])),
                "target": target,
                "kernels": len(codes),
                "bytes": sum(code["cubin_bytes"] for code in codes),
                "compressed": sum(code.get("compressed_bytes", 0) for code in codes),
                "seconds": round(sum(code.get("seconds", 0.0) for code in codes), 2),
            }


def _library(library: "Generated") -> dict[str, Any]:
    return {
        "file": str(library.library),
        "bytes": library.library.stat().st_size,
        "seconds": library.description["seconds"],
    }


def _text(built: Sequence["Generated"], rows: Sequence[dict[str, Any]], seconds: float) -> str:
    headings = ("plugin", "operator", "dtypes", "target", "kernels", "code", "compressed", "seconds")
    cells = [
        (
            *(row["plugin"], row["operator"], ", ".join(row["dtypes"]), row["target"], row["kernels"]),
            size(row["bytes"]),
            size(row["compressed"]),
            f"{row['seconds']:.2f}",
        )
        for row in rows
    ]
    lines = [f"{each.library}: {size(each.library.stat().st_size)}, {len(each.ops)} plugins" for each in built]
    return "\n".join([columns([headings, *cells], indent=0, heading=True), *lines, f"{seconds:.1f} s in all"])
