"""Workloads and peers of block_sparse_attention."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bridge.bench.peer import Call, Missing, Peer, Untimed, imported
from bridge.bench.workload import Workload
from bridge.core.op import OPS
from bridge.testing import cast

_COMPARED = 32  # queries of a block that are compared
_FLEX_BLOCK = 128  # FlexAttention's own, where the op's are smaller than its kernels'


@dataclass(frozen=True)
class BlockSparseAttention(Workload):
    """block_sparse_attention of `queries` at the end of `keys` (0: as many as queries).

    heads: of queries, and of keys. blocks: queries and keys of a block. pattern: makes the masks, [M, query blocks, key
    blocks].
    """

    batch: int = 1
    heads: tuple[int, int] = (32, 8)
    queries: int = 1
    keys: int = 0
    head_dim: int = 128
    blocks: tuple[int, int] = (128, 128)
    causal: bool = False
    pattern: "Callable[[BlockSparseAttention], Tensor] | None" = None

    @property
    def all_keys(self) -> int:
        """Their number."""
        return self.keys or self.queries

    @property
    def counts(self) -> tuple[int, int]:
        """Blocks of queries, and of keys."""
        return -(-self.queries // self.blocks[0]), -(-self.all_keys // self.blocks[1])

    def arguments(self, device: torch.device) -> tuple[list[Any], dict[str, Any]]:
        """q, k and v, heads first, and the mask."""
        lengths = (self.queries, self.all_keys, self.all_keys)
        counts = (self.heads[0], self.heads[1], self.heads[1])
        shapes = [(self.batch, n, length, self.head_dim) for n, length in zip(counts, lengths, strict=True)]
        settings = {"query_block": self.blocks[0], "key_block": self.blocks[1], "causal": self.causal}
        mask = mask_of(self).to(device).expand(self.batch, -1, -1, -1).contiguous()
        return [*(self._random(device, *shape) for shape in shapes), mask], settings

    def batched(self) -> tuple[int, ...]:
        """All of them."""
        return (0, 1, 2, 3)

    def bytes(self) -> int:
        """q and the result, the keys and values that any query sees, and the mask."""
        mask = mask_of(self)
        of_group = mask.expand(1, self.heads[0], -1, -1) if mask.shape[1] == 1 else mask
        seen = of_group.unflatten(1, (min(self.heads[1], of_group.shape[1]), -1)).any(2).any(-2)  # [1, G, key blocks]
        keys = int(seen.sum()) * self.blocks[1] * self.heads[1] // seen.shape[1]
        rows = self.queries * self.heads[0] + keys
        return self.batch * (2 * rows * self.head_dim * self.element + mask.numel())

    def flops(self) -> int:
        """Of the two products, for the pairs of a query and a key that it sees."""
        mask = mask_of(self)[0]
        pairs = int((mask * self.pairs()).sum()) * self.heads[0] // mask.shape[0]
        return 4 * self.batch * pairs * self.head_dim

    def pairs(self) -> Tensor:
        """[query blocks, key blocks], the pairs of a query and a key that a pair of blocks has."""
        query, first = torch.arange(self.queries), torch.arange(self.counts[1]) * self.blocks[1]
        last = query + self.all_keys - self.queries if self.causal else torch.full_like(query, self.all_keys - 1)
        seen = (last[:, None] + 1 - first).clamp(min=0, max=self.blocks[1])
        seen = seen.minimum(self.all_keys - first)  # [queries, key blocks]
        rows = seen.new_zeros(self.counts[0], self.counts[1])
        return rows.index_add_(0, query // self.blocks[0], seen)

    def errors(self, args: list[Any], settings: dict[str, Any], result: Any) -> dict[str, Any]:
        """Of the last queries of some blocks, in the first of the batch."""
        op, largest, pytorch_largest, right = OPS[self.op], 0.0, 0.0, True
        for block in sorted({0, self.counts[0] // 2, self.counts[0] - 1}):
            end = min((block + 1) * self.blocks[0], self.queries)
            chosen = slice(max(block * self.blocks[0], end - _COMPARED), end)
            keys = end + self.all_keys - self.queries if self.causal else self.all_keys
            blocks = -(-keys // self.blocks[1])
            mask = args[3][:1, :, block : block + 1, :blocks]
            part = [args[0][:1, :, chosen], *(t[:1, :, :keys] for t in args[1:3]), mask]
            exact = op.call_reference(*cast(part, torch.float64), **settings)
            scale = max(float(exact.abs().max()), torch.finfo(result.dtype).tiny)
            peer = op.call_reference(*part, **settings)
            error, by_pytorch = (float((x - exact).abs().max()) / scale for x in (result[:1, :, chosen], peer))
            right = right and error <= 2 * by_pytorch + torch.finfo(result.dtype).eps
            largest, pytorch_largest = max(largest, error), max(pytorch_largest, by_pytorch)
        return {"error": largest, "pytorch_error": pytorch_largest, "right": right}


@cache
def mask_of(workload: BlockSparseAttention) -> Tensor:
    """[1, M, query blocks, key blocks], always the same."""
    assert workload.pattern is not None
    return workload.pattern(workload)[None]


def _scores(workload: BlockSparseAttention, heads: int) -> Tensor:
    return torch.rand(heads, *workload.counts, generator=torch.Generator().manual_seed(0))


def longformer(workload: BlockSparseAttention) -> Tensor:
    """256 tokens on both sides, and a first block that sees all and is seen by all."""
    i, j = torch.arange(workload.counts[0])[:, None], torch.arange(workload.counts[1])
    return (((i - j).abs() <= 256 // workload.blocks[1]) | (i == 0) | (j == 0))[None]


def bigbird(workload: BlockSparseAttention) -> Tensor:
    """A block on both sides, the first and the last block for all, and three random ones of each head."""
    i, j = torch.arange(workload.counts[0])[:, None], torch.arange(workload.counts[1])
    last = workload.counts[1] - 1
    shared = ((i - j).abs() <= 1) | (i == 0) | (j == 0) | (i == last) | (j == last)
    chosen = _scores(workload, workload.heads[0]).masked_fill(shared, -1.0).topk(3, -1).indices
    return shared | torch.zeros(workload.heads[0], *workload.counts, dtype=torch.bool).scatter(-1, chosen, True)


def sliding_tiles(workload: BlockSparseAttention) -> Tensor:
    """A latent video of 30 x 48 x 80 in tiles of 6 x 8 x 8: 3 x 3 x 3 tiles around each, moved inside at the ends."""
    sizes = (5, 6, 10)
    axes = torch.meshgrid(*(torch.arange(n) for n in sizes), indexing="ij")
    place = torch.stack([axis.flatten() for axis in axes], -1)
    centre = torch.minimum(place.clamp(min=1), torch.tensor(sizes) - 2)
    return ((centre[:, None] - place).abs() <= 1).all(-1)[None]


def selected(workload: BlockSparseAttention) -> Tensor:
    """16 blocks of each query and key head: the first, its own, the one before it, and others."""
    position = torch.arange(workload.counts[0])[:, None] + workload.all_keys - workload.queries
    own, block = position // workload.blocks[1], torch.arange(workload.counts[1])
    scores = _scores(workload, workload.heads[1]).masked_fill(block > own, -1.0)
    scores = scores.masked_fill((block == 0) | ((own - block >= 0) & (own - block <= 1)), 2.0)
    chosen = scores.topk(16, -1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, chosen, True) & (block <= own)


def share(part: float) -> Callable[[BlockSparseAttention], Tensor]:
    """That part of the blocks before each one, by query head, and its own."""

    def pattern(workload: BlockSparseAttention) -> Tensor:
        eye = torch.eye(*workload.counts, dtype=torch.bool)
        return ((_scores(workload, workload.heads[0]) < part) | eye) & torch.ones(*workload.counts).bool().tril()

    return pattern


# Layers of published models: Longformer base and BigBird base at 4096 tokens; HunyuanVideo at 720p under sliding tile
# attention (https://arxiv.org/abs/2502.04507); heads and blocks of Native Sparse Attention's model, with values as wide
# as keys; a tenth of Llama 3.1 8B's blocks, as what chooses blocks by content leaves at long prompts.
_LLAMA: dict[str, Any] = {"queries": 32768, "causal": True, "pattern": share(0.1)}
_NSA: dict[str, Any] = {"heads": (64, 4), "blocks": (1, 64), "causal": True, "pattern": selected}
_BASE: dict[str, Any] = {"heads": (12, 12), "head_dim": 64, "blocks": (64, 64), "queries": 4096}
_VIDEO: dict[str, Any] = {"heads": (24, 24), "blocks": (384, 384), "queries": 115200, "pattern": sliding_tiles}
_MODELS: dict[str, dict[str, Any]] = {
    "BigBird, 4 sequences": _BASE | {"batch": 4, "pattern": bigbird},
    "HunyuanVideo, tiles": _VIDEO,
    "selected blocks": _NSA | {"queries": 8192},
    "selected blocks, decode": _NSA | {"keys": 65536},
    "Llama 3.1, a tenth": _LLAMA,
}
_FURTHER: dict[str, dict[str, Any]] = {
    "Longformer, 4 sequences": _BASE | {"batch": 4, "pattern": longformer},
    "selected blocks, decode, 8 sequences": _NSA | {"keys": 65536, "batch": 8},
    "Llama 3.1, a tenth, blocks of 64": _LLAMA | {"blocks": (64, 64)},
}


def workloads() -> Iterable[Workload]:
    """Patterns of published models; more of them, and growing shares of the blocks of one length."""
    for name, changes in _MODELS.items():
        yield BlockSparseAttention("block_sparse_attention", name, "bfloat16", **changes)
    exact = _MODELS["BigBird, 4 sequences"] | {"batch": 1, "queries": 1024}
    yield BlockSparseAttention("block_sparse_attention", "BigBird, 1024 tokens", "float32", variation=True, **exact)
    for name, changes in _FURTHER.items():
        yield BlockSparseAttention("block_sparse_attention", name, "bfloat16", "growth", **changes)
    for power in range(6):
        grown = _LLAMA | {"queries": 16384, "pattern": share(2**-power)}
        yield BlockSparseAttention("block_sparse_attention", f"share 1/{2**power}", "bfloat16", "growth", **grown)


def _dense(workload: BlockSparseAttention, mask: Tensor) -> Tensor:
    """[B, M, queries, keys], the mask of the pairs."""
    query = torch.arange(workload.queries, device=mask.device)
    key = torch.arange(workload.all_keys, device=mask.device)
    seen = mask[:, :, query // workload.blocks[0]][..., key // workload.blocks[1]]
    return seen & (key <= query[:, None] + workload.all_keys - workload.queries) if workload.causal else seen


def _qkv(args: list[Any]) -> tuple[Tensor, Tensor, Tensor]:
    return args[0], args[1], args[2]


def _sdpa(workload: BlockSparseAttention, settings: dict[str, Any]) -> Call:
    """PyTorch's attention with a dense mask, which is not timed."""
    pairs = workload.batch * mask_of(workload).shape[1] * workload.queries * workload.all_keys
    if pairs > 2**32:
        raise Missing(f"its mask would have {pairs:.1e} elements")

    def make(args: list[Any]) -> Tensor:
        seen = _dense(workload, args[3])
        return seen if seen.shape[1] == 1 else seen.repeat_interleave(workload.heads[0] // seen.shape[1], 1)

    mask = Untimed(make)
    return lambda args: F.scaled_dot_product_attention(*_qkv(args), attn_mask=mask(args), enable_gqa=True)


def _without_mask(workload: BlockSparseAttention, settings: dict[str, Any]) -> Call:
    """PyTorch's attention of all blocks: what a model pays that has no sparse kernel and drops its mask."""
    if workload.causal and workload.queries != workload.all_keys:
        raise Missing("its causal mask begins at the first key")
    return lambda args: F.scaled_dot_product_attention(*_qkv(args), is_causal=workload.causal, enable_gqa=True)


def _flex_attention(workload: BlockSparseAttention, settings: dict[str, Any]) -> Call:
    """FlexAttention, compiled for the shape; its block mask is not timed.

    Blocks that its kernels can have are given as they are; smaller ones are looked up in blocks of its own.
    """
    flex = imported("torch.nn.attention.flex_attention", "flex_attention")
    block_mask = Untimed(lambda args: _flex_mask(workload, args[3]))
    torch.compiler.reset()
    attend = torch.compile(flex, dynamic=False)
    options = {"BLOCK_M": 64, "BLOCK_N": 64} if min(_flex_blocks(workload)) < _FLEX_BLOCK else None
    return lambda args: attend(*args[:3], block_mask=block_mask(args), enable_gqa=True, kernel_options=options)


def _flex_blocks(workload: BlockSparseAttention) -> tuple[int, int]:
    return workload.blocks if min(workload.blocks) >= 64 else (_FLEX_BLOCK, _FLEX_BLOCK)


def _flex_mask(workload: BlockSparseAttention, mask: Tensor) -> Any:
    make = imported("torch.nn.attention.flex_attention", "BlockMask")
    heads, shift = workload.heads[0], workload.all_keys - workload.queries
    (rows, columns), sizes = workload.blocks, _flex_blocks(workload)
    visited = mask if mask.shape[1] == 1 else mask.repeat_interleave(heads // mask.shape[1], 1)
    coarse = visited if sizes == workload.blocks else _coarser(visited, (sizes[0] // rows, sizes[1] // columns))
    whole = _whole_blocks(workload, coarse, sizes)
    one = visited.shape[1] == 1

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = visited[batch, 0 if one else head, query // rows, key // columns]
        return seen & (key <= query + shift) if workload.causal else seen

    part, full = (_listed(each) for each in (coarse & ~whole, coarse & whole))
    return make.from_kv_blocks(
        *part, *full, BLOCK_SIZE=sizes, mask_mod=sees, seq_lengths=(workload.queries, workload.all_keys)
    )


def _whole_blocks(workload: BlockSparseAttention, coarse: Tensor, sizes: tuple[int, int]) -> Tensor:
    """Which of the blocks have all their pairs."""
    if sizes != workload.blocks:
        return torch.zeros_like(coarse)
    first = torch.arange(coarse.shape[2], device=coarse.device)[:, None] * sizes[0]
    last = (torch.arange(coarse.shape[3], device=coarse.device) + 1) * sizes[1] - 1
    seen = last <= first + workload.all_keys - workload.queries
    return seen.expand_as(coarse) if workload.causal else torch.ones_like(coarse)


def _coarser(mask: Tensor, factors: tuple[int, int]) -> Tensor:
    """Blocks of that many blocks, which have what any of these has."""
    rows, columns = (-n % factor for n, factor in zip(mask.shape[2:], factors, strict=True))
    whole = F.pad(mask, (0, columns, 0, rows))
    return whole.unflatten(3, (-1, factors[1])).any(4).unflatten(2, (-1, factors[0])).any(3)


def _listed(mask: Tensor) -> tuple[Tensor, Tensor]:
    """The number of blocks of each row, and which they are, the others after them."""
    return mask.sum(-1, dtype=torch.int32), mask.int().argsort(dim=-1, descending=True, stable=True).int()


PEERS = (
    Peer("flex_attention", "block_sparse_attention", _flex_attention, compiles=True),
    Peer("sdpa_mask", "block_sparse_attention", _sdpa),
    Peer("sdpa_all_blocks", "block_sparse_attention", _without_mask, bound=True),
)
