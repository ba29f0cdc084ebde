"""`bridge cache`: what is in the cache, engines and generated libraries, and how to be rid of it."""

import argparse
import time
from typing import Any

from bridge.base import log
from bridge.base.cache_folder import folder_of
from bridge.base.text import as_json, columns, parse_size, printable, size
from bridge.cli.command import UsageError
from bridge.cli.generated import cached_libraries
from bridge.engine.cache import EngineCache, Entry, default_size
from bridge.engine.node_table import plugin_counts
from bridge.engine_file.contents import EngineFile
from bridge.errors import EngineFileError

_SHOWN = 12  # characters of a key


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommands and their flags."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--dir", metavar="FOLDER", help="default: BRIDGE_CACHE_DIR, else ~/.cache/bridge")
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    ls = commands.add_parser("ls", parents=[shared], help="list engines and generated libraries, the last used first")
    ls.add_argument("--json", action="store_true", help="as JSON")
    clear = commands.add_parser("clear", parents=[shared], help="remove engines, or generated libraries")
    clear.add_argument("keys", nargs="*", metavar="KEY", help="the beginnings of the engines' keys; default: all")
    clear.add_argument("--generated", action="store_true", help="the generated libraries instead, not the engines")
    prune = commands.add_parser("prune", parents=[shared], help="remove what was not used for longest")
    prune.add_argument(
        "--size", help='how much of the engines may stay, such as "5GiB"; default: BRIDGE_CACHE_SIZE, else 20 GiB'
    )
    prune.add_argument(
        "--generated-size", help="how much of the generated libraries; default: BRIDGE_GENERATED_SIZE, else 5 GiB"
    )
    verify = commands.add_parser("verify", parents=[shared], help="read every engine and compare its checksum")
    verify.add_argument("--repair", action="store_true", help="remove what is damaged")


def run(options: argparse.Namespace) -> int:
    """Runs one of them; returns the exit code."""
    cache = EngineCache(folder_of(options.dir), default_size())
    return {"ls": _ls, "clear": _clear, "prune": _prune, "verify": _verify}[options.action](cache, options)


def _ls(cache: EngineCache, options: argparse.Namespace) -> int:
    rows = [_entry_values(entry) for entry in cache.entries()]
    total = sum(row["size"] for row in rows)
    if options.json:
        summary = {"folder": str(cache.folder), "limit": cache.limit, "size": total, "engines": rows}
        print(as_json(summary | {"generated": cached_libraries.summary(options.dir)}))
        return 0
    if rows:
        headings = ("key", "model", "target", "flavour", "plugins", "size", "last used")
        print(columns([headings, *map(_row, rows)], indent=0, heading=True))
    print(f"{len(rows)} engines, {size(total)} of at most {size(cache.limit)}, in {cache.folder}")
    print(cached_libraries.text(options.dir))
    return 0


def _entry_values(entry: Entry) -> dict[str, Any]:
    used = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.used))
    row: dict[str, Any] = {"key": entry.key, "size": entry.size, "last_used": used}
    try:
        file = EngineFile.load(entry.path)
    except EngineFileError as error:
        return row | {"error": str(error)}
    return row | {
        "model": file.metadata.get("model"),
        "target": file.target,
        "flavour": f"{file.flavour} {file.tensorrt_version}",
        "plugins": dict(plugin_counts(file.layers)),
    }


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    key = row["key"][:_SHOWN]
    if "error" in row:
        return key, "damaged", "", "", "", size(row["size"]), row["last_used"]
    plugins = ", ".join(f"{count} {name}" for name, count in row["plugins"].items()) or "none"
    return key, str(row["model"]), row["target"], row["flavour"], plugins, size(row["size"]), row["last_used"]


def _clear(cache: EngineCache, options: argparse.Namespace) -> int:
    if options.generated and options.keys:
        raise UsageError("--generated removes all generated libraries, and takes no KEY")
    if options.generated:
        print(cached_libraries.clear(options.dir))
        return 0
    removed = cache.clear(options.keys)
    missing = [key for key in options.keys if not any(entry.key.startswith(key) for entry in removed)]
    print(_removed(removed))
    if missing:
        log.say(f"bridge: no engine's key begins with {', '.join(missing)}")
    return 1 if missing else 0


def _prune(cache: EngineCache, options: argparse.Namespace) -> int:
    print(_removed(cache.prune(parse_size(options.size, "--size") if options.size else None)))
    print(cached_libraries.prune(options.dir, options.generated_size))
    return 0


def _verify(cache: EngineCache, options: argparse.Namespace) -> int:
    faults = cache.verify()
    for name, fault in faults.items():
        print(f"{printable(name)}: {printable(fault)}")
    if faults and options.repair:
        print(_removed(cache.clear([name.removesuffix(".engine") for name in faults])))
        return 0
    print(f"{len(cache.entries())} engines, {len(faults)} damaged" + ("; --repair removes them" if faults else ""))
    return 1 if faults else 0


def _removed(entries: list[Entry]) -> str:
    return f"removed {len(entries)} engines, {size(sum(entry.size for entry in entries))}"
