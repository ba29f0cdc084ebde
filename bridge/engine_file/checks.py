"""Checks of the types and bounds of values from a file, before anything uses them.

A check takes a value and its name in messages. It raises EngineFileError with the value and what was expected.
"""

import math
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

from bridge.errors import EngineFileError

Check = Callable[[Any, str], None]

INT64_MAX = 2**63 - 1
_LONGEST = 1 << 20  # characters of a text; a model's source line may be long
_LONGEST_NAME = 4096  # characters; TensorRT's limit is as many bytes
_LONGEST_WORD = 256  # characters of a word that tables repeat
_DEEPEST = 16  # nesting of values that this version does not know

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 80


def shown(value: Any) -> str:
    """A value for an error message: short, and without control characters."""
    return _short.repr(value)


def fail(what: str, value: Any, expected: str) -> None:
    """Raises EngineFileError with the value and what was expected."""
    raise EngineFileError(f"{what} is {shown(value)}; expected {expected}")


def of_type(value: Any, kind: type, what: str) -> None:
    """EngineFileError: the value is not of that type."""
    if not isinstance(value, kind):
        raise EngineFileError(f"{what} must be {kind.__name__}, not {type(value).__name__}")


def text(value: Any, what: str) -> None:
    """Any text that can be written as UTF-8."""
    of_type(value, str, what)
    if len(value) > _LONGEST:
        fail(what, value, f"at most {_LONGEST:,} characters, not {len(value):,}")
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        fail(what, value, "text without lone surrogates")


def text_of(longest: int) -> Check:
    """Text of at most so many characters."""

    def check(value: Any, what: str) -> None:
        text(value, what)
        if len(value) > longest:
            fail(what, value, f"at most {longest} characters, not {len(value):,}")

    return check


def name(value: Any, what: str, longest: int = _LONGEST_NAME) -> None:
    """Short text without control characters: it is printed as it is."""
    text(value, what)
    if not value.isprintable() or len(value) > longest:
        fail(what, value, f"at most {longest} printable characters")


def word(value: Any, what: str) -> None:
    """As `name`, but shorter."""
    name(value, what, _LONGEST_WORD)


def word_or_integer(value: Any, what: str) -> None:
    """A word, or a number of at least 0."""
    word(value, what) if isinstance(value, str) else integer(0)(value, what)


def line(value: Any, what: str) -> None:
    """Text of any length without control characters."""
    text(value, what)
    if not value.isprintable():
        fail(what, value, "printable characters")


def of(kind: type) -> Check:
    """A value of that type."""
    return lambda value, what: of_type(value, kind, what)


def scalar_or_list(value: Any, what: str) -> None:
    """One scalar, or a list of them."""
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            scalar(item, f"{what}[{index}]")
    else:
        scalar(value, what)


def flag(value: Any, what: str) -> None:
    """True or False."""
    of_type(value, bool, what)


def scalar(value: Any, what: str) -> None:
    """None, a flag, a number or text."""
    if isinstance(value, str):
        text(value, what)
    elif isinstance(value, int):
        if not -INT64_MAX - 1 <= value <= INT64_MAX:
            fail(what, value, "a number of at most 64 bits")
    elif value is not None and not isinstance(value, float):
        fail(what, value, "None, a bool, a number or a string")


def integer(low: int, high: int = INT64_MAX) -> Check:
    """A whole number within bounds."""

    def check(value: Any, what: str) -> None:
        if type(value) is not int or not low <= value <= high:
            fail(what, value, f"an integer from {low} to {high}")

    return check


def seconds(value: Any, what: str) -> None:
    """A plausible duration in seconds."""
    if type(value) not in (int, float) or not (0 <= value < 1e9 and math.isfinite(value)):
        fail(what, value, "a number of seconds")


def measured(value: Any, what: str) -> None:
    """A measured number, perhaps infinite or NaN."""
    if type(value) not in (int, float) or (type(value) is int and abs(value) > INT64_MAX):
        fail(what, value, "a number")


def optional(check: Check) -> Check:
    """None, or a value that passes the check."""
    return lambda value, what: None if value is None else check(value, what)


def sequence(check: Check, longest: int | None = None) -> Check:
    """A list or tuple of values that pass the check."""

    def check_all(values: Any, what: str) -> None:
        if not isinstance(values, (list, tuple)):
            of_type(values, list, what)
        if longest is not None and len(values) > longest:
            fail(f"the length of {what}", len(values), f"at most {longest}")
        for index, value in enumerate(values):
            check(value, f"{what}[{index}]")

    return check_all


def mapping(check: Check) -> Check:
    """A dictionary from names to values that pass the check."""

    def check_all(values: Any, what: str) -> None:
        of_type(values, dict, what)
        for index, (key, value) in enumerate(values.items()):
            name(key, f"a key of {what}")
            check(value, f"{what}[{index}]")

    return check_all


def record(required: Mapping[str, Check], optional_keys: Mapping[str, Check] | None = None) -> Check:
    """A dictionary with required and optional keys. Unknown keys are ignored."""

    def check_all(value: Any, what: str) -> None:
        of_type(value, dict, what)
        for key, check in required.items():
            check(value.get(key), f"the {key} of {what}")
        for key, check in (optional_keys or {}).items():
            if key in value:
                check(value[key], f"the {key} of {what}")

    return check_all


def plain(value: Any, what: str, depth: int = _DEEPEST) -> None:
    """Any JSON values of bounded depth."""
    if isinstance(value, (dict, list, tuple)):
        if depth == 0:
            raise EngineFileError(f"{what} is nested more than {_DEEPEST} deep")
        for item in value.values() if isinstance(value, dict) else value:
            plain(item, what, depth - 1)
        for key in value if isinstance(value, dict) else ():
            text(key, f"a key of {what}")
    else:
        scalar(value, what)
