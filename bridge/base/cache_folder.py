"""The folder of everything that bridge keeps on disk between processes."""

import os
from pathlib import Path

VARIABLE = "BRIDGE_CACHE_DIR"


def folder_of(setting: str | None = None) -> Path:
    """The folder that a setting, or the environment, names."""
    named = setting or os.environ.get(VARIABLE)
    if named:
        return Path(os.path.expanduser(named))  # noqa: PTH111 (Path.expanduser may raise)
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 (Path.home may raise)
    return Path(home) / "bridge"
