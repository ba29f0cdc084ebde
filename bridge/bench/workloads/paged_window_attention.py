"""Workloads and peers of paged_window_attention."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bridge.bench.peer import Call, Peer, Untimed, imported
from bridge.bench.workload import Workload
from bridge.core.op import OPS
from bridge.testing import cast


@dataclass(frozen=True)
class PagedWindowAttention(Workload):
    """paged_window_attention of `queries` at the end of `keys` in each sequence, whose pages lie in random order.

    heads: of queries, and of keys. left: as the op's window_left.
    """

    batch: int = 1
    heads: tuple[int, int] = (32, 8)
    queries: int = 1
    keys: int = 16384
    head_dim: int = 128
    page_size: int = 16
    left: int = 4095

    @property
    def seen(self) -> int:
        """Keys of a sequence that any of its queries sees: the last ones."""
        return min(self.keys, self.left + self.queries) if self.left >= 0 else self.keys

    def arguments(self, device: torch.device) -> tuple[list[Any], dict[str, Any]]:
        """q, the caches, a table of pages and the lengths."""
        width = self.keys // self.page_size
        q = self._random(device, self.batch, self.heads[0], self.queries, self.head_dim)
        shape = (self.batch * width, self.page_size, self.heads[1], self.head_dim)
        caches = [self._random(device, *shape) for _ in range(2)]
        table = torch.randperm(self.batch * width, device=device).view(self.batch, width).int()
        lengths = torch.full((self.batch,), self.keys, dtype=torch.int32, device=device)
        return [q, *caches, table, lengths], {"window_left": self.left}

    def bytes(self) -> int:
        """q and the result, the keys and values that are seen, and their part of the table."""
        rows = self.queries * self.heads[0] + self.seen * self.heads[1]
        return self.batch * (2 * rows * self.head_dim * self.element + 4 * self.seen // self.page_size)

    def flops(self) -> int:
        """Of the two products, for the pairs of a query and a key that it sees."""
        position = torch.arange(self.keys - self.queries, self.keys)
        pairs = position + 1 if self.left < 0 else (position + 1).clamp(max=self.left + 1)
        return 4 * self.batch * self.heads[0] * int(pairs.sum()) * self.head_dim

    def errors(self, args: list[Any], settings: dict[str, Any], result: Any) -> dict[str, Any]:
        """Of the last queries of the first and the last sequence, against the keys that they see, in float64."""
        op, few, largest, pytorch_largest, right = OPS["window_attention"], 32, 0.0, 0.0, True
        for sequence in sorted({0, self.batch - 1}):
            one = slice(sequence, sequence + 1)
            keys, values = (_gathered(cache, args[3][one], self.seen) for cache in args[1:3])
            part = [args[0][one, :, -few:], keys, values]
            exact = op.call_reference(*cast(part, torch.float64), **settings)
            peer = op.call_reference(*part, **settings)
            scale = float(exact.abs().max())
            error, by_pytorch = (float((x - exact).abs().max()) / scale for x in (result[one, :, -few:], peer))
            right = right and error <= 2 * by_pytorch + torch.finfo(result.dtype).eps
            largest, pytorch_largest = max(largest, error), max(pytorch_largest, by_pytorch)
        return {"error": largest, "pytorch_error": pytorch_largest, "right": right}


# Mistral 7B v0.1's layers, and Llama 3.1 8B's, which see all keys.
_LLAMA: dict[str, Any] = {"left": -1, "keys": 8192}
_MODELS: dict[str, dict[str, Any]] = {
    "Mistral, decode, pages of 16": {},
    "Mistral, decode, pages of 64": {"page_size": 64},
    "Mistral, decode, 32 sequences, pages of 16": {"batch": 32},
    "Mistral, decode, 32 sequences, pages of 64": {"batch": 32, "page_size": 64},
    "Llama 3.1, decode, 16 sequences": _LLAMA | {"batch": 16},
    "Mistral, 512 of 8192 tokens": {"queries": 512, "keys": 8192},
}


def workloads() -> Iterable[Workload]:
    """Decoding with caches of published models, a chunk of a prompt, and growing pages."""
    for name, changes in _MODELS.items():
        yield PagedWindowAttention("paged_window_attention", name, "bfloat16", **changes)
    yield PagedWindowAttention(
        "paged_window_attention", "decode, window 128", "float32", variation=True, left=127, keys=1024
    )
    for power in range(9):
        size = {"page_size": 2**power, "batch": 8}
        yield PagedWindowAttention("paged_window_attention", f"pages of {2**power}", "bfloat16", "growth", **size)


def _gathered(cache: Tensor, table: Tensor, last: int) -> Tensor:
    """[B, G, last, D], the last keys of whole sequences, copied out of their pages."""
    pages = -(-last // cache.shape[1])
    return cache[table[:, -pages:].long()].flatten(1, 2).transpose(1, 2)[:, :, -last:]


def _band(workload: PagedWindowAttention, device: torch.device) -> Tensor:
    """[queries, seen keys], the dense mask."""
    key = torch.arange(workload.seen, device=device)
    position = torch.arange(workload.seen - workload.queries, workload.seen, device=device)[:, None]
    seen = key <= position
    return seen & (key >= position - workload.left) if workload.left >= 0 else seen


def _gather_and_sdpa(workload: PagedWindowAttention, settings: dict[str, Any]) -> Call:
    """Keys that are seen copied out of their pages, then PyTorch's attention; a mask, where one is needed, untimed."""
    mask = Untimed(lambda args: _band(workload, args[0].device)) if workload.queries > 1 else None

    def call(args: list[Any]) -> Tensor:
        keys, values = (_gathered(cache, args[3], workload.seen) for cache in args[1:3])
        return F.scaled_dot_product_attention(
            args[0], keys, values, attn_mask=mask(args) if mask else None, enable_gqa=True
        )

    return call


def _gather_and_flex(workload: PagedWindowAttention, settings: dict[str, Any]) -> Call:
    """The same with FlexAttention, compiled with the copies; its block mask is not timed."""
    flex = imported("torch.nn.attention.flex_attention", "flex_attention")
    create = imported("torch.nn.attention.flex_attention", "create_block_mask")
    shift, left = workload.seen - workload.queries, workload.left

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        distance = query + shift - key
        return (distance >= 0) & (distance <= left) if left >= 0 else distance >= 0

    torch.compiler.reset()
    block_mask = create(sees, None, None, workload.queries, workload.seen, device="cuda")

    def attend(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Any:
        keys, values = (_gathered(cache, table, workload.seen) for cache in (k, v))
        return flex(q, keys, values, block_mask=block_mask, enable_gqa=True)

    compiled = torch.compile(attend, dynamic=False)
    return lambda args: compiled(*args[:4])


def _side_by_side(workload: PagedWindowAttention, settings: dict[str, Any]) -> Call:
    """window_attention of the same keys where they lie side by side: what pages cost. The copy is not timed."""
    import bridge

    dense = Untimed(lambda args: tuple(_gathered(t, args[3], workload.seen).contiguous() for t in args[1:3]))
    return lambda args: bridge.window_attention(args[0], *dense(args), window_left=workload.left)


PEERS = (
    Peer("gather_flex", "paged_window_attention", _gather_and_flex, compiles=True),
    Peer("gather_sdpa", "paged_window_attention", _gather_and_sdpa),
    Peer("without_pages", "paged_window_attention", _side_by_side, bound=True),
)
