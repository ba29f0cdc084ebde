"""`bridge cache` for generated libraries: how much they take, and how to be rid of them."""

from collections.abc import Sequence
from typing import Any

from bridge.base.text import parse_size, size
from bridge.generate import cache
from bridge.generate.cache import Entry


def summary(cache_dir: str | None) -> dict[str, Any]:
    """What the generated libraries of a cache take, for `--json`; sizes in bytes."""
    entries = cache.entries(cache.root_of(cache_dir))
    return {
        "folder": str(cache.root_of(cache_dir)),
        "limit": cache.default_size(),
        "size": sum(entry.size for entry in entries),
        "libraries": sum(entry.is_library for entry in entries),
    }


def text(cache_dir: str | None) -> str:
    """The same in a line."""
    row = summary(cache_dir)
    taken = f"{size(row['size'])} of at most {size(row['limit'])}"
    return f"{row['libraries']} generated libraries, {taken}, in {row['folder']}; `bridge ops --generated` lists them"


def clear(cache_dir: str | None) -> str:
    """Removes all that no process uses; says what it was."""
    return _removed(cache.clear(cache.root_of(cache_dir)))


def prune(cache_dir: str | None, limit: str | None) -> str:
    """Removes what was not used for longest; says what it was. ValueError: the limit is no size."""
    most = parse_size(limit, "--generated-size") if limit else cache.default_size()
    return _removed(cache.prune(cache.root_of(cache_dir), most))


def _removed(entries: Sequence[Entry]) -> str:
    libraries = sum(entry.is_library for entry in entries)
    return f"removed {libraries} generated libraries and their kernels, {size(sum(entry.size for entry in entries))}"
