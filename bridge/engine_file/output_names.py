"""Names of an engine's outputs: what the model calls them, as far as it does."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch.utils import _pytree as pytree

_LONGEST = 256
_ILL = re.compile(r"[^\w.-]+")  # tools write a name before a colon, in a list with commas, or as the name of a file


def output_names(out_spec: pytree.TreeSpec, taken: Sequence[str]) -> list[str]:
    """A name for every leaf of a result: its keys, as in "logits" or "boxes_0", else "output0"; none is `taken`.

    Names consist of letters, digits, "_", "." and "-", and begin with a letter or "_".
    """
    return names_of(_paths(out_spec), taken)


def names_of(paths: Iterable[Sequence[str]], taken: Sequence[str]) -> list[str]:
    """The same for the keys that lead to each leaf."""
    used, names = set(taken), []
    for index, keys in enumerate(paths):
        name = _name(keys) or f"output{index}"
        while name in used:
            name = f"{name}_output"
        used.add(name)
        names.append(name)
    return names


def _name(keys: Sequence[str]) -> str | None:
    """The name that keys make; None where they are places in tuples alone, or too long."""
    words = [_ILL.sub("_", key).lstrip(".-") for key in keys]
    joined = "_".join(words)
    if len(joined) > _LONGEST or all(word.isdigit() or not word.strip("_") for word in words):
        return None
    return f"output{joined}" if joined[0].isdigit() else joined


def _paths(spec: pytree.TreeSpec, keys: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The keys that lead to each leaf."""
    if spec.is_leaf():
        yield keys
    else:
        for key, child in zip(_keys(spec), spec.children(), strict=True):
            yield from _paths(child, (*keys, key))


def _keys(spec: pytree.TreeSpec) -> list[str]:
    """What a container calls its children; their places where it has no names for them."""
    count = spec.num_children
    for found in (_registered_keys(spec), _context_keys(spec)):
        if len(found) == count:
            return found
    return [str(place) for place in range(count)]


def _registered_keys(spec: pytree.TreeSpec) -> list[str]:
    """The keys by which torch's pytrees know the children; none for a class that was registered without."""
    node = pytree.SUPPORTED_NODES.get(spec.type)
    if node is None or node.flatten_with_keys_fn is None:
        return []
    try:
        dummy = node.unflatten_fn(list(range(spec.num_children)), spec.context)
        pairs = list(node.flatten_with_keys_fn(dummy)[0])
    except Exception:  # a constructor of the model's package, which checks what it is given
        return []
    return [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", "")))) for key, _ in pairs]


def _context_keys(spec: pytree.TreeSpec) -> list[str]:
    """The context of a flattening where it is a list of names, as that of transformers' outputs is."""
    context: Any = spec.context
    named = isinstance(context, (list, tuple)) and all(isinstance(key, str) for key in context)
    return list(context) if named else []
