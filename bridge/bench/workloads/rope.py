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
    """rope of [batch, seq] tokens, with a float32 table row for each position of the sequence.

    rotary_dim: of each head, that many elements are rotated; 0: all. transposed: heads come first in a view of tensors
    in which tokens do, as Hugging Face's models make them.
    """

    batch: int = 1
    seq: int = 1
    heads: tuple[int, int] = (32, 8)
    head_dim: int = 128
    rotary_dim: int = 0
    interleaved: bool = False
    layout: str = "bshd"
    transposed: bool = False

    @property
    def rotated(self) -> int:
        """The elements of a head that are rotated."""
        return self.rotary_dim or self.head_dim

    def arguments(self, device: torch.device) -> tuple[list[Any], dict[str, Any]]:
        """q, k: [batch, seq, heads, head_dim] or heads first; cos, sin: [seq, rotated / 2]."""
        q, k = (self._random(device, *self._shape(heads)) for heads in self.heads)
        if self.transposed:
            q, k = q.transpose(1, 2), k.transpose(1, 2)
        frequencies = 10000.0 ** -torch.linspace(0, 1, self.rotated // 2, device=device)
        angles = torch.outer(torch.arange(self.seq, device=device, dtype=torch.float32), frequencies)
        settings = {"interleaved": self.interleaved, "layout": self.layout, "rotary_dim": self.rotary_dim}
        return [q, k, angles.cos(), angles.sin()], settings

    def batched(self) -> tuple[int, ...]:
        """q and k."""
        return (0, 1)

    def bytes(self) -> int:
        """q and k twice, the tables once."""
        tokens = self.batch * self.seq
        return 2 * tokens * sum(self.heads) * self.head_dim * self.element + 4 * self.seq * self.rotated

    def _shape(self, heads: int) -> tuple[int, ...]:
        """Of q or k in memory."""
        heads_first = self.layout == "bhsd" and not self.transposed
        return (self.batch, *((heads, self.seq) if heads_first else (self.seq, heads)), self.head_dim)


# Heads of published models: of queries and of keys, their width, and how much of it is rotated. What has no name is
# Llama 3 8B (Meta 2024). Sizes are those of torchtune's builders (Llama, Qwen2.5, Phi-3), of transformers' defaults
# (Gemma, GPT-NeoX) and of the authors' configurations (Phi-2, Phi-4-mini). All but Phi-2, Phi-4-mini and GPT-NeoX
# rotate all.
_MODELS: tuple[tuple[str, tuple[int, int], int, int], ...] = (
    ("Llama 3 70B", (64, 8), 128, 0),
    ("Qwen2.5 7B", (28, 4), 128, 0),
    ("Qwen2.5 0.5B", (14, 2), 64, 0),
    ("Gemma 7B", (16, 16), 256, 0),
    ("Gemma 2 2B", (8, 4), 256, 0),
    ("Phi-2", (32, 32), 80, 32),
    ("Phi-3-mini", (32, 32), 96, 0),
    ("Phi-4-mini", (24, 8), 128, 96),
    ("GPT-NeoX 20B", (64, 64), 96, 24),
)


def workloads() -> Iterable[Workload]:
    """Many tokens in every layout, few as in decoding, both of published models, and growing numbers of tokens."""
    for interleaved in (False, True):
        for layout in ("bshd", "bhsd"):
            name = f"prefill, {'interleaved' if interleaved else 'half-split'}, {layout}"
            yield Rope("rope", name, "bfloat16", batch=8, seq=4096, interleaved=interleaved, layout=layout)
    for tokens in (1, 4, 8, 16, 32, 64):
        yield Rope("rope", f"decode, {tokens}", "bfloat16", batch=tokens)
    for name, heads, head_dim, rotary_dim in _MODELS:
        model: dict[str, Any] = {"heads": heads, "head_dim": head_dim, "rotary_dim": rotary_dim}
        model |= {"layout": "bhsd", "transposed": True}
        yield Rope("rope", f"{name}, prefill", "bfloat16", seq=2048, **model)
        yield Rope("rope", f"{name}, prefill, 8 sequences", "bfloat16", variation=True, batch=8, seq=2048, **model)
        for tokens in (1, 64):
            name_of_row = f"{name}, decode, {tokens}"
            yield Rope("rope", name_of_row, "bfloat16", variation=tokens > 1, batch=tokens, **model)
    for power in range(0, 17, 2):
        yield Rope("rope", f"tokens {2**power}", "bfloat16", "growth", seq=2**power)


def _written_out(wrap: Wrap) -> Prepare:
    """Rotation as PyTorch models compute it; the tables, made once for all layers, are not timed."""

    def prepare(workload: Rope, settings: dict[str, Any]) -> Call:
        axis, interleaved = 1 if workload.layout == "bshd" else 0, workload.interleaved
        rotated = workload.rotated

        def full(table: Tensor, dtype: torch.dtype) -> Tensor:
            wide = table.repeat_interleave(2, -1) if interleaved else torch.cat((table, table), -1)
            return wide.to(dtype).unsqueeze(axis)

        def rotate_half(x: Tensor) -> Tensor:
            if interleaved:
                return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
            low, high = x.chunk(2, -1)
            return torch.cat((-high, low), -1)

        def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
            part = x[..., :rotated]
            turned = part * cos + rotate_half(part) * sin
            return torch.cat((turned, x[..., rotated:]), -1) if rotated < x.shape[-1] else turned

        def rope(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
            return rotate(q, cos, sin), rotate(k, cos, sin)

        wrapped, tables = wrap(rope), Untimed(lambda args: [full(table, args[0].dtype) for table in args[2:]])
        return lambda args: wrapped(args[0], args[1], *tables(args))

    return prepare


_TOGETHER = 16  # elements of a vector of FlashInfer's and SGLang's kernels


def _token_major(module: str, name: str) -> Prepare:
    """The functions of FlashInfer and SGLang, which take the same arguments."""

    def prepare(workload: Rope, settings: dict[str, Any]) -> Call:
        apply = imported(module, name)
        if workload.layout != "bshd" and not workload.transposed:
            raise Missing("it takes tokens before heads alone")
        rotary_dim = workload.rotary_dim or workload.head_dim
        if rotary_dim % _TOGETHER:  # FlashInfer's kernel fails in a way that ends all work of the process on the GPU
            raise Missing(f"it takes {_TOGETHER} elements at once, and rotates {rotary_dim}")
        positions = torch.arange(workload.seq, device="cuda").repeat(workload.batch)
        cache = Untimed(lambda args: torch.cat(args[2:], -1))

        def as_given(x: Tensor) -> Tensor:
            return x.view(workload.batch, workload.seq, -1, workload.head_dim).transpose(1, 2)

        def call(args: list[Any]) -> Any:
            tokens_first = (t.transpose(1, 2) if workload.transposed else t for t in args[:2])
            q, k = (tensor.flatten(0, 1).flatten(1) for tensor in tokens_first)
            results = apply(positions, q, k, workload.head_dim, cache(args), is_neox=not workload.interleaved)
            rotated = (q, k) if results is None else results  # SGLang's overwrites its arguments
            return tuple(map(as_given, rotated)) if workload.transposed else rotated

        return call

    return prepare


def _liger(workload: Rope, settings: dict[str, Any]) -> Call:
    """Liger takes heads before tokens as a view of tokens before heads, and copies other layouts."""
    apply = imported("liger_kernel.ops.rope", "LigerRopeFunction").apply
    if workload.layout != "bhsd" or workload.interleaved or workload.rotary_dim:
        raise Missing("it takes half-split pairs of whole heads, with heads before tokens, alone")
    tables = Untimed(lambda args: [torch.cat((t, t), -1)[None].to(args[0].dtype) for t in args[2:]])
    return lambda args: apply(args[0], args[1], *tables(args))


PEERS = (
    Peer("eager", "rope", _written_out(plain)),
    Peer("inductor", "rope", _written_out(compiled), compiles=True),
    Peer("flashinfer", "rope", _token_major("flashinfer.rope", "apply_rope_with_cos_sin_cache")),
    Peer("liger", "rope", _liger),
    Peer("sglang", "rope", _token_major("sgl_kernel", "apply_rope_with_cos_sin_cache_inplace")),
)
