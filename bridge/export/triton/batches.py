"""Which engines take the rows of several requests at once.

The server joins tensors along their first dimension. So that dimension must be the same dynamic extent everywhere, and
must be in no other dimension: where it is in two, as in the distances of all pairs, rows depend on each other.
"""

import re
from collections.abc import Iterator

from bridge.engine_file.contents import EngineFile

REMEDY = "compile the model with a first dimension that is one torch.export.Dim in all inputs and outputs"


def refusal(file: EngineFile) -> str | None:
    """Why requests to an engine have no common first dimension, as part of a sentence; None: they have one."""
    known = file.metadata.get("extents", {})
    names = [spec.name for spec in file.inputs] + [spec.name for spec in file.outputs]
    shapes = {name: known.get(name) for name in names}
    if unknown := [name for name, shape in shapes.items() if shape is None]:
        return f"the engine file does not say which extents of {', '.join(unknown)} are equal"
    first = {name: shape[0] if shape else "no extent" for name, shape in shapes.items()}
    name, batch = next(iter(first.items()))
    for other, extent in first.items():
        if not isinstance(extent, str) or not extent.isidentifier():
            return f"the first dimension of {other} is {extent}, which is no dynamic extent of its own"
        if extent != batch:
            return f"the first dimensions of {name} and {other} are different extents"
    crossed = next((name for name, shape in shapes.items() if _has(batch, shape[1:])), None)
    return crossed and f"{crossed} has the extent of its first dimension in another one, too"


def _has(symbol: str, extents: list[int | str]) -> bool:
    return any(re.search(rf"\b{symbol}\b", str(extent)) for extent in extents)


def largest(file: EngineFile) -> int:
    """The most rows of one run; the engine must have no `refusal`."""
    return file.inputs[0].max[0]


def padded(rows: int, most: int) -> int:
    """How many rows run in place of so many: the next of 1, 2, 3, 4, 6, 8, 12, 16, 24 and so on; at most `most`.

    TensorRT-RTX compiles kernels for each new shape, so few sizes must recur. At most a third of a run is wasted.
    """
    if rows < 2:
        return rows
    power = 1 << (rows - 1).bit_length()
    between = power * 3 // 4
    return min(between if rows <= between else power, most)


def sizes(file: EngineFile) -> list[int]:
    """Every number of rows that `padded` gives; the engine must have no `refusal`."""
    least, most = max(file.inputs[0].min[0], 1), largest(file)
    return sorted({padded(rows, most) for rows in range(least, most + 1)})


def grouped(shapes: list[tuple[tuple[int, ...], ...]], most: int) -> Iterator[list[int]]:
    """Indices of requests that run together: equal but for their rows, of which there are at most `most`.

    shapes: of the inputs of each request; each request has at most `most` rows.
    """
    groups: dict[tuple[tuple[int, ...], ...], tuple[list[int], int]] = {}
    for index, inputs in enumerate(shapes):
        key, rows = tuple(shape[1:] for shape in inputs), inputs[0][0]
        group, count = groups.get(key, ([], 0))
        if count + rows > most:
            yield group
            group, count = [], 0
        groups[key] = ([*group, index], count + rows)
    yield from (group for group, _ in groups.values())
