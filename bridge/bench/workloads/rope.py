"""Workloads and peers of rope."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bridge.bench.peer import Call, Missing, Peer, Prepare, Untimed, Wrap, compiled, imported, plain
from bridge.bench.workload import Workload


@dataclass(frozen=True)
class Rope(Workload):
    """rope of [batch, seq] tokens, with a float32 table row for each position of the sequence."""

    batch: int = 1
    seq: int = 1
    heads: tuple[int, int] = (32, 8)
    head_dim: int = 128
    interleaved: bool = False
    layout: str = "bshd"

    def arguments(self, device: torch.device) -> tuple[list[Any], dict[str, Any]]:
        """q, k: [batch, seq, heads, head_dim] or heads first; cos, sin: [seq, head_dim / 2]."""
        q, k = (self._random(device, *self._shape(heads)) for heads in self.heads)
        frequencies = 10000.0 ** -torch.linspace(0, 1, self.head_dim // 2, device=device)
        angles = torch.outer(torch.arange(self.seq, device=device, dtype=torch.float32), frequencies)
        return [q, k, angles.cos(), angles.sin()], {"interleaved": self.interleaved, "layout": self.layout}

    def batched(self) -> tuple[int, ...]:
        """q and k."""
        return (0, 1)

    def bytes(self) -> int:
        """q and k twice, the tables once."""
        tokens = self.batch * self.seq
        return 2 * tokens * sum(self.heads) * self.head_dim * self.element + 4 * self.seq * self.head_dim

    def _shape(self, heads: int) -> tuple[int, ...]:
        heads_first = self.layout == "bhsd"
        return (self.batch, *((heads, self.seq) if heads_first else (self.seq, heads)), self.head_dim)


def workloads() -> Iterable[Workload]:
    """Many tokens in every layout, few as in decoding, and growing numbers of tokens."""
    for interleaved in (False, True):
        for layout in ("bshd", "bhsd"):
            name = f"prefill, {'interleaved' if interleaved else 'half-split'}, {layout}"
            yield Rope("rope", name, "bfloat16", batch=8, seq=4096, interleaved=interleaved, layout=layout)
    for tokens in (1, 4, 8, 32):
        yield Rope("rope", f"decode, {tokens}", "bfloat16", batch=tokens)
    for power in range(0, 17, 2):
        yield Rope("rope", f"tokens {2**power}", "bfloat16", "growth", seq=2**power)


def _written_out(wrap: Wrap) -> Prepare:
    """Rotation as PyTorch models compute it; the tables, made once for all layers, are not timed."""

    def prepare(workload: Rope, settings: dict[str, Any]) -> Call:
        axis, interleaved = 1 if workload.layout == "bshd" else 0, workload.interleaved

        def full(table: Tensor, dtype: torch.dtype) -> Tensor:
            wide = table.repeat_interleave(2, -1) if interleaved else torch.cat((table, table), -1)
            return wide.to(dtype).unsqueeze(axis)

        def rotate_half(x: Tensor) -> Tensor:
            if interleaved:
                return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
            low, high = x.chunk(2, -1)
            return torch.cat((-high, low), -1)

        def rope(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
            return q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin

        wrapped, tables = wrap(rope), Untimed(lambda args: [full(table, args[0].dtype) for table in args[2:]])
        return lambda args: wrapped(args[0], args[1], *tables(args))

    return prepare


def _token_major(module: str, name: str) -> Prepare:
    """The functions of FlashInfer and SGLang, which take the same arguments."""

    def prepare(workload: Rope, settings: dict[str, Any]) -> Call:
        apply = imported(module, name)
        if workload.layout != "bshd":
            raise Missing("it takes tokens before heads alone")
        positions = torch.arange(workload.seq, device="cuda").repeat(workload.batch)
        cache = Untimed(lambda args: torch.cat(args[2:], -1))

        def call(args: list[Any]) -> Any:
            q, k = (tensor.flatten(0, 1).flatten(1) for tensor in args[:2])
            results = apply(positions, q, k, workload.head_dim, cache(args), is_neox=not workload.interleaved)
            return (q, k) if results is None else results  # SGLang's overwrites its arguments

        return call

    return prepare


def _liger(workload: Rope, settings: dict[str, Any]) -> Call:
    """Liger takes heads before tokens as a view of tokens before heads, and copies other layouts, as here."""
    apply = imported("liger_kernel.ops.rope", "LigerRopeFunction").apply
    if workload.layout != "bhsd" or workload.interleaved:
        raise Missing("it takes half-split pairs with heads before tokens alone")
    tables = Untimed(lambda args: [torch.cat((t, t), -1)[None].to(args[0].dtype) for t in args[2:]])
    return lambda args: apply(args[0], args[1], *tables(args))


PEERS = (
    Peer("eager", "rope", _written_out(plain)),
    Peer("inductor", "rope", _written_out(compiled)),
    Peer("flashinfer", "rope", _token_major("flashinfer.rope", "apply_rope_with_cos_sin_cache")),
    Peer("liger", "rope", _liger),
    Peer("sglang", "rope", _token_major("sgl_kernel", "apply_rope_with_cos_sin_cache_inplace")),
)
