"""Which channels of which tensor each channel of a tensor is."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.fx import Node

from bridge.passes.common.nodes import CUTS, arguments, aten, is_copy, same_extents, slice_start, value

_DIM = 1


@dataclass(frozen=True)
class Channels:
    """Channels in a row of a tensor, perhaps the sigmoid of each element."""

    source: Node
    start: int
    stop: int
    has_sigmoid: bool = False

    def continues(self, before: "Channels") -> bool:
        """Whether these channels follow those before them in one tensor."""
        return (self.source, self.start, self.has_sigmoid) == (before.source, before.stop, before.has_sigmoid)


def extent_of_channels(node: Node) -> int:
    """How many channels a tensor [N, C, ...] has."""
    extent = node.meta["val"].shape[_DIM]
    if not isinstance(extent, int):
        raise TypeError(f"{node} has {extent} channels")
    return extent


def channels_of(node: Node) -> tuple[Channels, ...]:
    """The channels of a tensor [N, C, ...], as few rows of them as there are; of the tensor itself at worst."""
    parts = _copied(node) or (_READERS[node.target](node) if node.target in _READERS else None)
    return _joined(parts) if parts is not None else (Channels(node, 0, extent_of_channels(node)),)


def _joined(parts: Sequence[Channels]) -> tuple[Channels, ...]:
    joined: list[Channels] = []
    for part in parts:
        if joined and part.continues(joined[-1]):
            joined[-1] = replace(joined[-1], stop=part.stop)
        else:
            joined.append(part)
    return tuple(joined)


def _copied(node: Node) -> tuple[Channels, ...] | None:
    return channels_of(node.args[0]) if is_copy(node) else None  # type: ignore[arg-type]


def _taken(source: Any, start: int, stop: int) -> list[Channels]:
    """The channels start to stop of a tensor."""
    taken, place = [], 0
    for part in channels_of(source):
        first, last = max(start - place, 0), min(stop - place, part.stop - part.start)
        place += part.stop - part.start
        if first < last:
            taken.append(replace(part, start=part.start + first, stop=part.start + last))
    return taken


def _slice(node: Node) -> list[Channels] | None:
    given, source, result = arguments(node), value(node.args[0]), value(node)
    if source is None or result is None or given["step"] != 1:
        return None
    if same_extents(source.shape, result.shape):
        return list(channels_of(given["self"]))
    if given["dim"] % source.dim() != _DIM:
        return None
    return _from(given["self"], given["start"], result)


def _narrow(node: Node) -> list[Channels] | None:
    given, source, result = arguments(node), value(node.args[0]), value(node)
    if source is None or result is None or given["dim"] % source.dim() != _DIM:
        return None
    return _from(given["self"], given["start"], result)


def _from(source: Node, start: Any, result: Tensor) -> list[Channels] | None:
    count = result.shape[_DIM]
    first = slice_start(start, extent_of_channels(source), count)
    return _taken(source, first, first + count) if isinstance(first, int) and isinstance(count, int) else None


def _piece(node: Node) -> list[Channels] | None:
    """One of the results of a split."""
    cut, index = node.args
    if not isinstance(cut, Node) or cut.target not in _CUTS:
        return None
    given, source = arguments(cut), value(cut.args[0])
    if source is None or given["dim"] % source.dim() != _DIM:
        return None
    extents: list[Any] = [piece.shape[_DIM] for piece in cut.meta["val"]]
    if not all(isinstance(extent, int) for extent in extents):
        return None
    place: Any = index % len(extents)  # type: ignore[operator]
    start = sum(extents[:place])
    return _taken(cut.args[0], start, start + extents[place])


def _cat(node: Node) -> list[Channels] | None:
    given, result = arguments(node), value(node)
    if result is None or given["dim"] % result.dim() != _DIM:
        return None
    if any(tensor.meta["val"].dtype != result.dtype for tensor in given["tensors"]):
        return None
    return [part for tensor in given["tensors"] for part in channels_of(tensor)]


def _sigmoid(node: Node) -> list[Channels] | None:
    parts = channels_of(node.args[0])  # type: ignore[arg-type]
    return None if any(part.has_sigmoid for part in parts) else [replace(part, has_sigmoid=True) for part in parts]


_CUTS = (CUTS - {aten.unbind.int}) | {aten.tensor_split.sections, aten.tensor_split.indices}
_READERS: dict[Any, Callable[[Node], list[Channels] | None]] = {
    aten.slice.Tensor: _slice,
    aten.narrow.default: _narrow,
    operator.getitem: _piece,
    aten.cat.default: _cat,
    aten.concat.default: _cat,
    aten.sigmoid.default: _sigmoid,
}
