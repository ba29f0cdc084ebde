"""Plugins under a host that keeps no rule: fields, descriptors and the order of calls are drawn at random.

A case makes one collection of fields, offers it to a creator and, where that gives a plugin, calls what the plugin has
in any order. Every call must end in a documented way: null, false, or an error code. Cases run in child processes, so
that a crash is a finding with its number; `run_case(seed, number)` repeats one alone.

No GPU is needed, nor used: children see none, so that enqueue has to fail wherever there is work.
"""

import ctypes
import random
from collections import Counter
from ctypes import c_bool, c_char_p, c_int32, c_size_t, c_void_p
from dataclasses import dataclass
from typing import Any

from plugin_host import (
    Builder,
    creators,
    pack_dynamic,
    pack_exprs,
    pack_fields,
    pack_tensors,
)
from samples import FIXED, RANDOM

from bridge.core.op import OPS
from bridge.tensorrt.plugins.plugin_object import BUILD, CORE, DTYPES, RUNTIME, call, delete
from bridge.testing import cast, outputs_of

LARGE = (2**31 - 1, 2**31, 2**32, 2**33 + 1, 2**40, 2**61, 2**62, 2**63 - 1)
EXTENTS = (0, 1, 2, 3, 4, 5, 7, 8, 16, 64, 1024, -1, -2, -(2**31), -(2**63), *LARGE)
RANKS = (-(2**31), -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 100, 2**31 - 1)
COUNTS = (-(2**31), -1, 0, 1, 2, 6, 100, 2**31 - 1)
NUMBERS = (0, 1, -1, 2, 3, 7, 2**20, 2**31, 2**32, -(2**63), 2**62, 2**63 - 1)
FLOATS = (0.0, -0.0, 0.1, 1.0, -1.0, 1e30, 1e300, -1e300, float("nan"), float("inf"), float("-inf"), 5e-324)
TEXTS = ("", "x", "x,", ",", "=", "x=,x=", "bshd", "q,k,cos,sin", "é", "%s%n", "\x00", "a" * 5000, "x," * 40000)
POINTERS = (0x1000, 0x1010, 0x1001, 0x7F00_0000_0000)  # of device memory: no host looks behind them


@dataclass(frozen=True)
class Template:
    """A call that is right: fields, and shape and dtype of what is given and of what comes out."""

    op: str
    fields: dict[str, Any]
    inputs: list[tuple[list[int], int]]
    outputs: list[tuple[list[int], int]]


def _template(name: str, args: list, kwargs: dict) -> Template:
    tensors, attributes = OPS[name].bind(args, kwargs)
    names = [key for key, tensor in zip(OPS[name].tensors, tensors, strict=True) if tensor is not None]
    given = [(list(t.shape), DTYPES[t.dtype]) for t in tensors if t is not None]
    results = outputs_of(OPS[name].overload(*cast(args, device="meta"), **kwargs))
    outputs = [(list(t.shape), DTYPES[t.dtype]) for t in results]
    return Template(name, {**attributes, "tensors": ",".join(names)}, given, outputs)


def _nms(count: int) -> Template:
    fields = {"iou_threshold": 0.5, "tensors": "boxes,scores"}
    return Template("nms", fields, [([count, 4], 0), ([count], 0)], [([count], 8), ([], 8)])


# Made here, before there are children: torch's threads are not theirs.
TEMPLATES = [_template(name, *RANDOM[name](seed)) for name in FIXED for seed in range(12)]
TEMPLATES += [_nms(count) for count in (0, 1, 9, 65)]


def run_case(seed: int, number: int) -> Counter[str]:
    """One case. AssertionError: an outcome that no documentation names."""
    return _Case(random.Random(f"{seed} {number}")).play()


class _Case:
    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.outcomes: Counter[str] = Counter()
        self.template = draw.choice(TEMPLATES)
        self.plugins: list[int] = []
        self.ready: set[int] = set()  # plugins whose last shape change was taken
        self.honest = draw.random() < 0.2  # nothing is changed: everything must be taken

    def play(self) -> Counter[str]:
        self._create()
        steps = [self._query, self._clone, self._delete, self._configure, self._formats, self._dtypes, self._shapes,
                 self._workspace, self._tactics, self._shape_change, self._enqueue, self._serialize]  # fmt: skip
        for _ in range(self.draw.randrange(2, 12)):
            if self.plugins:
                self.draw.choice(steps)(self.draw.choice(self.plugins))
        for this in self.plugins:
            delete(this)
        return self.outcomes

    def _often(self, chance: float = 0.1) -> bool:
        return not self.honest and self.draw.random() < chance

    def _note(self, what: str, ok: Any) -> None:
        self.outcomes[f"{what} {'taken' if ok else 'refused'}"] += 1
        assert ok or not self.honest, f"{what} refuses what is right: {self.template}"

    # ---- arguments

    def _fields(self) -> list[tuple[str | None, Any, int | None, int | None]]:
        """Name, value, field type and length of each; None: as they should be, or null."""
        rows: list[tuple[str | None, Any, int | None, int | None]] = []
        for name, value in self.template.fields.items():
            if self._often(0.05):
                continue
            rows.append((name, self._value() if self._often(0.2) else value, None, None))
            while self._often(0.05):
                rows.append((name, self._value(), None, None))
        while self._often(0.15):
            rows.append(
                (self.draw.choice(["no_such_field", "", "tensors", None, "x" * 300]), self._value(), None, None)
            )
        self.draw.shuffle(rows)
        return [self._spoilt(*row) for row in rows]

    def _value(self) -> Any:
        pool = self.draw.choice([NUMBERS, FLOATS])
        many = [self.draw.choice(pool) for _ in range(self.draw.choice([0, 1, 1, 1, 2, 2, 3, 9, 3000]))]
        return self.draw.choice([many, many, self.draw.choice(TEXTS), None])

    def _spoilt(self, name: str | None, value: Any, kind: Any, length: Any) -> tuple[Any, Any, Any, Any]:
        if self._often(0.08):
            kind = self.draw.choice([-1, *range(15), 2**31 - 1])
        if self._often(0.08):  # less than there is, or what nothing could be
            length = self.draw.choice([0, 1, -1, -(2**31), 10**6, 2**31 - 1])
        return name, value, kind, length

    def _tensors(self, rows: list[tuple[list[int], int]]) -> list[list[Any]]:
        """[extents, rank, dtype, format] of each, as they should be or changed."""
        found = [[list(shape), len(shape), dtype, 0] for shape, dtype in rows]
        known = sorted({extent for shape, _ in rows for extent in shape})
        if known and self._often(0.5):  # one extent in all of them: what depends on it still fits
            old, new = self.draw.choice(known), self.draw.choice(EXTENTS)
            for row in found:
                row[0] = [new if extent == old else extent for extent in row[0]]
        while self._often(0.15) and found:
            row = self.draw.choice(found)
            place = self.draw.randrange(4)
            if place == 0 and row[0]:
                row[0][self.draw.randrange(len(row[0]))] = self.draw.choice(EXTENTS)
            elif place:
                row[place] = self.draw.choice([RANKS, range(-1, 14), range(-1, 14)][place - 1])
        if self._often(0.05):
            self.draw.shuffle(found)
        return found

    def _both(self) -> tuple[list[list[Any]], list[list[Any]]]:
        """Inputs and outputs, changed together."""
        rows = self._tensors(self.template.inputs + self.template.outputs)
        return rows[: len(self.template.inputs)], rows[len(self.template.inputs) :]

    def _count(self, rows: list[Any]) -> int:
        return self.draw.choice(COUNTS) if self._often(0.05) else len(rows)

    def _null(self, pointer: Any) -> Any:
        return None if self._often(0.03) else pointer

    def _part(self, this: int, kind: int) -> int:
        found = call(this, 0, c_void_p, kind, types=[c_int32])
        assert found
        return found

    def _dynamic(self) -> list[Any]:
        inputs, outputs = self._both()
        least = self._tensors(self.template.inputs)
        given = self._null(pack_dynamic(inputs, least if self._often() else inputs))
        return [given, self._count(inputs), self._null(pack_dynamic(outputs, outputs)), self._count(outputs)]

    # ---- calls

    def _create(self) -> None:
        rows = [(name, value, None, None) for name, value in self.template.fields.items()]
        collection = pack_fields(rows if self.honest else self._fields(), None if self._often(0.02) else 0)
        if self._often(0.02):
            collection.count = self.draw.choice([-1, -(2**31)])
        given = self._null(ctypes.byref(collection))
        phase, name = self.draw.choice([0, 1, -1, 77]), self.draw.choice([b"a plugin", b"", None])
        types = [c_char_p, c_void_p, c_int32]
        this = call(creators()[self.template.op], 0, c_void_p, name, given, phase, types=types)
        self._note("create", this)
        self.plugins += [this] if this else []

    def _query(self, this: int) -> None:
        kind = self.draw.choice([CORE, BUILD, RUNTIME, -1, 3, 2**31 - 1])
        assert bool(call(this, 0, c_void_p, kind, types=[c_int32])) == (kind in (CORE, BUILD, RUNTIME))
        core = self._part(this, CORE)
        names = [call(core, slot, c_char_p).decode() for slot in range(3)]
        assert names == [self.template.op, "1", "bridge"]

    def _clone(self, this: int) -> None:
        attach = self.draw.random() < 0.5
        copy = (
            call(self._part(this, RUNTIME), 3, c_void_p, None, types=[c_void_p]) if attach else call(this, 1, c_void_p)
        )
        self._note("clone", copy)
        self.plugins.append(copy)
        self.ready |= {copy} if this in self.ready else set()

    def _delete(self, this: int) -> None:
        delete(this)
        self.plugins.remove(this)
        self.ready.discard(this)

    def _configure(self, this: int) -> None:
        types = [c_void_p, c_int32] * 2
        self._note("configure", call(self._part(this, BUILD), 0, c_int32, *self._dynamic(), types=types) == 0)

    def _formats(self, this: int) -> None:
        inputs, outputs = self._both()
        place = self.draw.choice(COUNTS) if self._often() else self.draw.randrange(len(inputs) + len(outputs))
        given = self._null(pack_dynamic(inputs + outputs, inputs + outputs))
        types = [c_int32, c_void_p, c_int32, c_int32]
        counts = self._count(inputs), self._count(outputs)
        self._note("format", call(self._part(this, BUILD), 3, c_bool, place, given, *counts, types=types))

    def _dtypes(self, this: int) -> None:
        dtypes = [row[2] for row in self._tensors(self.template.inputs)]
        results = (c_int32 * 8)()
        outputs = len(self.template.outputs)
        given = self._null((c_int32 * 8)(*dtypes))
        arguments = (self._null(results), self._count([0] * outputs), given, self._count(dtypes))
        self._note("dtypes", call(self._part(this, BUILD), 1, c_int32, *arguments, types=[c_void_p, c_int32] * 2) == 0)

    def _shapes(self, this: int) -> None:
        rows = self._tensors(self.template.inputs)
        builder = Builder(refuses=self._often())
        given = pack_exprs([(row[0], row[1]) for row in rows], nulls=self._often(0.05))
        results = (ctypes.c_char * (72 * 8))()
        arguments = (self._null(given), self._count(rows), None, 0, self._null(results),
                     self._count(self.template.outputs), builder.address)  # fmt: skip
        types = [c_void_p, c_int32] * 3 + [c_void_p]
        self._note("shapes", call(self._part(this, BUILD), 2, c_int32, *arguments, types=types) == 0)

    def _workspace(self, this: int) -> None:
        size = call(self._part(this, BUILD), 5, c_size_t, *self._dynamic(), types=[c_void_p, c_int32] * 2)
        assert size < 2**63, "a workspace that wrapped"
        self.outcomes["workspace"] += 1

    def _tactics(self, this: int) -> None:
        build = self._part(this, BUILD)
        count = call(build, 7, c_int32)
        assert 0 <= count < 100
        asked = self._count([0] * count)
        found = self._null((c_int32 * 100)())
        status = call(build, 6, c_int32, found, asked, types=[c_void_p, c_int32])
        assert status != 0 or asked == count
        call(build, 8, c_char_p)
        call(self._part(this, RUNTIME), 0, c_int32, self.draw.choice([*range(-1, 14), 2**31 - 1]), types=[c_int32])

    def _shape_change(self, this: int) -> None:
        self._change(this, *self._both())

    def _change(self, this: int, inputs: list[list[Any]], outputs: list[list[Any]]) -> None:
        arguments = (self._null(pack_tensors(inputs)), self._count(inputs), self._null(pack_tensors(outputs)),
                     self._count(outputs))  # fmt: skip
        taken = call(self._part(this, RUNTIME), 1, c_int32, *arguments, types=[c_void_p, c_int32] * 2) == 0
        self._note("shape change", taken)
        for _, rank, _, _ in inputs if taken else []:
            assert 0 <= rank <= 8, f"taken: {inputs}"
        (self.ready.add if taken else self.ready.discard)(this)

    def _enqueue(self, this: int) -> None:
        inputs, outputs = self._both()
        if self.draw.random() < 0.7:
            self._change(this, inputs, outputs)
        addresses = [
            [0 if self._often(0.05) else self.draw.choice(POINTERS) for _ in rows] for rows in (inputs, outputs)
        ]
        given = [self._null((c_void_p * max(len(row), 1))(*row)) for row in addresses]
        scratch = self.draw.choice([None, *POINTERS])
        arguments = (self._null(pack_tensors(inputs)), self._null(pack_tensors(outputs)), *given, scratch, None)
        done = call(self._part(this, RUNTIME), 2, c_int32, *arguments, types=[c_void_p] * 6) == 0
        self.outcomes[f"enqueue {'done' if done else 'refused'}"] += 1
        assert this in self.ready or not done, "enqueue without shapes"
        assert not done or self.template.op != "nms", "a count that no GPU wrote"
        for extents, rank, _, _ in inputs if done else []:
            assert min(extents[:rank], default=0) >= 0, f"done: {inputs}"

    def _serialize(self, this: int) -> None:
        assert call(self._part(this, RUNTIME), 4, c_void_p)
