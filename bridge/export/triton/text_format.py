"""Protocol buffers' text format, of a message that is a dict: of words, numbers, texts, messages and lists of these."""

import json
from collections.abc import Iterator, Mapping
from typing import Any


class Word(str):
    """A value without quotes, such as a member of an enumeration."""


def text(message: Mapping[str, Any]) -> str:
    """The message as text. A list of messages repeats its field; an empty list is written as one."""
    return "\n".join(_lines(message, "")) + "\n"


def _lines(message: Mapping[str, Any], indent: str) -> Iterator[str]:
    for name, value in message.items():
        for each in value if _is_repeated(value) else [value]:
            if isinstance(each, Mapping):
                yield f"{indent}{name} {{"
                yield from _lines(each, indent + "  ")
                yield f"{indent}}}"
            else:
                yield f"{indent}{name}: {_scalar(each)}"


def _is_repeated(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(each, Mapping) for each in value)


def _scalar(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_scalar, value))}]"
    return str(value) if isinstance(value, Word) else json.dumps(value, ensure_ascii=False)
