"""Calls of rope."""

import torch
from draw import picker, seeded

TABLES = ["[S, R/2]", "[S, R]", "[B, S, R]", "[1, S, R/2]", "ids", "ids int32", "ids [1, S]"]


def rope_arguments(
    batch: int,
    seq: int,
    heads: tuple[int, int] = (4, 2),
    head_dim: int = 16,
    rotary: int = 0,
    layout: str = "bhsd",
    table: str = "[S, R/2]",
    seed: int = 0,
) -> list:
    """q, k, cos, sin (and position_ids): tables "[S, R/2]", "[B, S, R]", "[1, S, R/2]", or "ids" for a gather."""
    g = seeded(seed)
    rotary = rotary or head_dim
    shapes = [(batch, h, seq, head_dim) if layout == "bhsd" else (batch, seq, h, head_dim) for h in heads]
    q, k = (torch.randn(shape, generator=g) for shape in shapes)
    rows = seq + 5
    shape = {
        "[S, R/2]": (seq, rotary // 2),
        "[S, R]": (seq, rotary),
        "[B, S, R]": (batch, seq, rotary),
        "[1, S, R/2]": (1, seq, rotary // 2),
        "ids": (rows, rotary // 2),
        "ids int32": (rows, rotary),
        "ids [1, S]": (rows, rotary // 2),
    }[table]
    cos, sin = torch.randn(shape, generator=g), torch.randn(shape, generator=g)
    if not table.startswith("ids"):
        return [q, k, cos, sin]
    ids = torch.randint(0, rows, (1 if table == "ids [1, S]" else batch, seq), generator=g)
    return [q, k, cos, sin, ids.int() if table == "ids int32" else ids]


def samples() -> list[tuple]:
    sizes = [
        # batch, seq, (heads of q, of k), head_dim, rotary_dim
        (2, 5, (4, 2), 16, 0),
        (1, 1, (1, 1), 2, 0),
        (3, 7, (3, 1), 10, 6),
        (2, 3, (8, 8), 64, 32),
        (1, 9, (5, 2), 24, 16),
        (2, 4, (2, 2), 128, 128),
        (2, 3, (5, 3), 96, 24),
        (1, 4, (3, 2), 80, 20),
        (0, 4, (2, 1), 16, 0),
        (2, 0, (2, 1), 16, 0),
    ]
    found = []
    for i, (batch, seq, heads, head_dim, rotary) in enumerate(sizes):
        for j, table in enumerate(TABLES):
            interleaved, layout = bool((i + j) % 2), ("bhsd", "bshd")[(i + j // 2) % 2]
            args = rope_arguments(batch, seq, heads, head_dim, rotary, layout, table, seed=10 * i + j)
            kwargs = {"interleaved": interleaved, "rotary_dim": rotary, "layout": layout}
            found.append((f"B{batch} S{seq} H{heads} D{head_dim} R{rotary} {table} {kwargs}", args, kwargs))
    return found


# Tokens, head_dim, whether interleaved. Heads that a block's threads cover by 16 bytes each, and not by 8: in float32,
# and in 16 bits. Head_dim of so many tokens that they fill a GPU: divided by 16 bytes or by 8, in either.
_WIDE = [(1, 768, True), (1, 1536, True), (1, 1536, False), (1, 3072, False)]
_MANY = [(6, True), (12, True), (12, False), (24, False)]


# Of parts of a head: head_dim and rotary_dim, whose halves are multiples of 4 elements and of 2.
_PARTS = [(96, 24), (80, 20)]


def further() -> list[tuple]:
    many = [(_many(head_dim), head_dim, pairs) for head_dim, pairs in _MANY]
    found = []
    for seq, head_dim, pairs in [*_WIDE, *many]:
        for table in ("[S, R/2]", "[S, R]"):
            args = rope_arguments(1, seq, (2, 1), head_dim, table=table)
            found.append((f"S{seq} D{head_dim} {table} interleaved {pairs}", args, {"interleaved": pairs}))
    for head_dim, rotary in _PARTS:
        for seq in (4, _many(head_dim)):
            for table in ("[S, R/2]", "[S, R]", "ids", "ids int32"):
                args = rope_arguments(1, seq, (2, 1), head_dim, rotary, table=table)
                found.append((f"S{seq} D{head_dim} R{rotary} {table}", args, {"rotary_dim": rotary}))
    return found


def _many(head_dim: int) -> int:
    """Tokens that fill a GPU."""
    return (1 << 22) // (3 * head_dim) + 1


def random_call(seed: int) -> tuple[list, dict]:
    """A valid call at random sizes."""
    pick = picker(seed)
    head_dim = 2 * pick(1, 40)
    rotary = 2 * pick(1, head_dim // 2) if pick(0, 1) else 0
    layout = ("bhsd", "bshd")[pick(0, 1)]
    table = TABLES[pick(0, 6)]
    heads = (pick(1, 6), pick(1, 6))
    args = rope_arguments(pick(0, 3), pick(0, 6), heads, head_dim, rotary, layout, table, seed)
    return args, {"interleaved": bool(pick(0, 1)), "rotary_dim": rotary, "layout": layout}


PAIR = (rope_arguments(2, 33, (4, 2), 64), rope_arguments(3, 65, (4, 2), 64, seed=1), {})


ALSO_RAISES = (IndexError,)  # of position ids that the tables have no rows for, on a CPU


def growing(size: int, seed: int = 0) -> tuple[torch.Tensor, list]:
    """With position ids, and tables of 6 rows."""
    q, k, cos, sin, ids = rope_arguments(size, size + 6, (4, 2), 64, table="ids [1, S]", seed=seed)
    return q, [k, cos[:6], sin[:6], ids % 6]


def growing_shapes(batch, length) -> dict:
    head = {0: batch, 2: length}
    return {"x": head, "rest": [head, None, None, {1: length}]}


def open_axes(tensors: list) -> dict:
    """Batch, heads and length; of tables and ids those that are not repeated, which have an extent of 1."""
    tables = {2: [*range(tensors[2].dim() - 1)], 3: [*range(tensors[3].dim() - 1)], 4: [0, 1]}
    for place in (2, 3, 4):
        if len(tensors) > place and tensors[place] is not None:
            tables[place] = [axis for axis in tables[place] if tensors[place].shape[axis] != 1]
    return {0: [0, 1, 2], 1: [0, 1, 2], **tables}
