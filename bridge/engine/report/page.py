"""The page: a template, a style, scripts and what an engine file says, in one file.

The page's policy allows only the style and script that it was written with, by their hashes, and no network at all.
"""

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from bridge.base.files import replacing
from bridge.engine.report import data, measured, network, sections
from bridge.engine_file.contents import EngineFile

_ASSETS = Path(__file__).with_name("assets")
_STYLES = ("page", "controls", "picture", "sections")  # later rules win
_SCRIPTS = ("elements", "graph", "picture", "overview", "details", "search", "table", "main")


def write(file: EngineFile, path: str | os.PathLike[str], rows: Sequence[measured.Row] = ()) -> None:
    """Writes the page of an engine file; an existing file at `path` stays until the new one is complete.

    rows: measured times. OSError: it cannot be written there.
    """
    page = content(file, rows).encode()
    with replacing(Path(path)) as target:
        target.write(page)


def content(file: EngineFile, rows: Sequence[measured.Row] = ()) -> str:
    """The whole page. rows: measured times."""
    style = "\n".join(_asset(f"{name}.css") for name in _STYLES)
    script = "\n".join(_asset(f"{name}.js") for name in _SCRIPTS)
    return Template(_asset("page.html")).substitute(
        title=escape(data.shown(file.metadata.get("model") or "engine")),
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        facts=sections.facts(file, rows),
        tables=sections.tables(file, rows),
        data=as_data(data.values(file, network.of_file(file), rows)),
    )


def as_data(values: Any) -> str:
    """JSON that may stand in a script element: it has no letter that HTML knows."""
    encoded = json.dumps(values, separators=(",", ":"), allow_nan=False)  # in ASCII
    for letter in "<>&":
        encoded = encoded.replace(letter, f"\\u{ord(letter):04x}")
    return encoded


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
