"""`--shapes` of commands: shapes of inputs by name, as trtexec writes them."""

import argparse
import re
from collections.abc import Callable, Iterable
from typing import Any

Shape = tuple[int, ...]
Shapes = dict[str, tuple[Shape, ...]]

_SCALAR = "scalar"
_SHAPE = rf"(?:\d+(?:x\d+)*|{_SCALAR})"
# A name may hold colons and commas itself.
_ENTRY = re.compile(rf"(?P<name>.+?):(?P<shapes>{_SHAPE}(?:/{_SHAPE})*)(?:,|$)")
_MOST = 2**31 - 1  # the greatest extent of TensorRT


class Collect(argparse.Action):
    """Joins the mappings of a flag that is given several times; a key given twice is an error."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        """Adds the mapping to the namespace's."""
        found = dict(getattr(namespace, self.dest) or {})
        for name in values:
            if name in found:
                raise argparse.ArgumentError(self, f"input {name!r} is given twice")
        setattr(namespace, self.dest, found | values)


def shapes(form: str, *counts: int) -> Callable[[str], Shapes]:
    """A type for argparse: "x:4x3,n:scalar" → {"x": ((4, 3),), "n": ((),)}.

    form: an example, for errors. counts: how many shapes an input may have, with slashes between them.
    """

    def parse(text: str) -> Shapes:
        found: Shapes = {}
        position = 0
        while position < len(text) or not text:
            match = _ENTRY.match(text, position)
            values = () if match is None else tuple(map(_shape, match["shapes"].split("/")))
            if match is None or len(values) not in counts:
                raise argparse.ArgumentTypeError(f"{text[position:]!r} is not of the form {form}")
            if match["name"] in found:
                raise argparse.ArgumentTypeError(f"input {match['name']!r} is given twice")
            found[match["name"]] = values
            position = match.end()
        return found

    return parse


def text_of(shape: Iterable[int]) -> str:
    """A shape as these flags take it: "4x3"."""
    return "x".join(map(str, shape)) or _SCALAR


def _shape(text: str) -> Shape:
    extents = () if text == _SCALAR else tuple(map(int, text.split("x")))
    if any(extent > _MOST for extent in extents):
        raise argparse.ArgumentTypeError(f"{text} has an extent beyond {_MOST}, the greatest of TensorRT")
    return extents
