"""Workloads and peers of window_attention."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bridge.bench.peer import Call, Missing, Peer, Untimed, imported
from bridge.bench.workload import Workload
from bridge.core.op import OPS
from bridge.testing import cast

_COMPARED = 32  # queries that are compared at a time: the reference holds all logits of them


@dataclass(frozen=True)
class WindowAttention(Workload):
    """window_attention of `queries` at the end of `keys` (0: as many as queries).

    heads: of queries, and of keys. left, right: as the op's window_left and window_right.
    """

    batch: int = 1
    heads: tuple[int, int] = (32, 8)
    queries: int = 1
    keys: int = 0
    head_dim: int = 128
    left: int = -1
    right: int = 0

    @property
    def all_keys(self) -> int:
        """Their number."""
        return self.keys or self.queries

    def arguments(self, device: torch.device) -> tuple[list[Any], dict[str, Any]]:
        """q, k and v, heads first."""
        lengths = (self.queries, self.all_keys, self.all_keys)
        counts = (self.heads[0], self.heads[1], self.heads[1])
        shapes = [(self.batch, n, length, self.head_dim) for n, length in zip(counts, lengths, strict=True)]
        settings = {"window_left": self.left, "window_right": self.right}
        return [self._random(device, *shape) for shape in shapes], settings

    def batched(self) -> tuple[int, ...]:
        """q, k and v."""
        return (0, 1, 2)

    def ranges(self, queries: Tensor) -> Tensor:
        """[queries, 2], the first key that each of them sees, and the one after the last."""
        position = queries + self.all_keys - self.queries
        begin = torch.zeros_like(position) if self.left < 0 else (position - self.left).clamp(min=0)
        end = torch.full_like(position, self.all_keys) if self.right < 0 else position + self.right + 1
        return torch.stack((begin, end.clamp(max=self.all_keys)), -1)

    def bytes(self) -> int:
        """q and the result, and the keys and values that are seen."""
        first, last = self.ranges(torch.tensor([0, self.queries - 1])).tolist()
        rows = self.queries * self.heads[0] + (last[1] - first[0]) * self.heads[1]
        return 2 * self.batch * rows * self.head_dim * self.element

    def flops(self) -> int:
        """Of the two products, for the pairs of a query and a key that it sees."""
        pairs = int(self.ranges(torch.arange(self.queries)).diff().sum())
        return 4 * self.batch * self.heads[0] * pairs * self.head_dim

    def errors(self, args: list[Any], settings: dict[str, Any], result: Any) -> dict[str, Any]:
        """Of some queries at the beginning, in the middle and at the end, in the first of the batch."""
        op, largest, pytorch_largest, right = OPS[self.op], 0.0, 0.0, True
        for first in sorted({0, self.queries // 2, max(0, self.queries - _COMPARED)}):
            chosen = slice(first, min(first + _COMPARED, self.queries))
            ranges = self.ranges(torch.arange(self.queries, device=result.device)[chosen])
            low, high = int(ranges.min()), int(ranges.max())
            part = [args[0][:1, :, chosen], *(t[:1, :, low:high] for t in args[1:3]), None, (ranges - low)[None]]
            exact = op.call_reference(*cast(part, torch.float64), window_right=-1)
            scale = float(exact.abs().max())
            peer = op.call_reference(*part, window_right=-1)
            error, by_pytorch = (float((x - exact).abs().max()) / scale for x in (result[:1, :, chosen], peer))
            right = right and error <= 2 * by_pytorch + torch.finfo(result.dtype).eps
            largest, pytorch_largest = max(largest, error), max(pytorch_largest, by_pytorch)
        return {"error": largest, "pytorch_error": pytorch_largest, "right": right}


# Layers of published models, as their authors' configurations have them: Mistral 7B v0.1 (window 4096), Gemma 3 4B
# (1024; heads of 256), gpt-oss (128; heads of 64), ModernBERT base (64 on both sides). What has no name is a shape that
# attention kernels are compared on.
_MISTRAL: dict[str, Any] = {"left": 4095}
_GEMMA3: dict[str, Any] = {"heads": (8, 4), "head_dim": 256, "left": 1023}
_GPT_OSS: dict[str, Any] = {"heads": (64, 8), "head_dim": 64, "left": 127}
_MODERNBERT: dict[str, Any] = {"heads": (12, 12), "head_dim": 64, "left": 64, "right": 64}
_SMALL: dict[str, Any] = {"batch": 4, "heads": (16, 16), "head_dim": 64, "left": 255}
_MODELS: dict[str, dict[str, Any]] = {
    "window 256, 4 sequences": _SMALL | {"queries": 16384},
    "window 1024": {"left": 1023, "queries": 16384},
    "Mistral": _MISTRAL | {"queries": 16384},
    "Mistral, 512 of 8192 tokens": _MISTRAL | {"queries": 512, "keys": 8192},
    "Gemma 3": _GEMMA3 | {"queries": 8192},
    "gpt-oss": _GPT_OSS | {"queries": 8192},
    "ModernBERT": _MODERNBERT | {"queries": 8192},
    "ModernBERT, 16 sequences": _MODERNBERT | {"queries": 2048, "batch": 16},
    "Mistral, decode": _MISTRAL | {"keys": 16384},
    "Mistral, decode, 32 sequences": _MISTRAL | {"keys": 16384, "batch": 32},
    "Gemma 3, decode": _GEMMA3 | {"keys": 8192},
}


def workloads() -> Iterable[Workload]:
    """Many queries and one, of published models; growing lengths, and growing windows of one length."""
    for name, changes in _MODELS.items():
        yield WindowAttention("window_attention", name, "bfloat16", **changes)
    for name in ("Mistral", "Gemma 3", "ModernBERT"):
        yield WindowAttention("window_attention", name, "float16", variation=True, **_MODELS[name])
    exact: dict[str, Any] = {"heads": (8, 2), "queries": 512, "left": 127}
    yield WindowAttention("window_attention", "window 128, 512 tokens", "float32", variation=True, **exact)
    for power in range(10, 18):
        tokens = 2**power
        yield WindowAttention("window_attention", f"tokens {tokens}", "bfloat16", "growth", queries=tokens, left=1023)
    for power in range(7, 15):
        name = f"windows {2**power}"
        yield WindowAttention("window_attention", name, "bfloat16", "growth", queries=16384, left=2**power - 1)


def _seen(workload: WindowAttention) -> Tensor:
    """[queries, keys], the dense mask."""
    key = torch.arange(workload.all_keys, device="cuda")
    begin, end = workload.ranges(torch.arange(workload.queries, device="cuda"))[..., None].unbind(1)
    return (key >= begin) & (key < end)


def _qkv(args: list[Any]) -> tuple[Tensor, Tensor, Tensor]:
    return args[0], args[1], args[2]


def _sdpa(workload: WindowAttention, settings: dict[str, Any]) -> Call:
    """PyTorch's attention with a dense mask, which is not timed."""
    mask = Untimed(lambda args: _seen(workload))
    return lambda args: F.scaled_dot_product_attention(*_qkv(args), attn_mask=mask(args), enable_gqa=True)


def _without_window(workload: WindowAttention, settings: dict[str, Any]) -> Call:
    """PyTorch's attention without a mask, which sees more keys: what a model pays that drops its window."""
    if workload.queries != workload.all_keys:
        raise Missing("its causal mask begins at the first key")
    causal = workload.right == 0
    return lambda args: F.scaled_dot_product_attention(*_qkv(args), is_causal=causal, enable_gqa=True)


def _flex_attention(workload: WindowAttention, settings: dict[str, Any]) -> Call:
    """FlexAttention, compiled for the shape; its block mask is not timed."""
    flex = imported("torch.nn.attention.flex_attention", "flex_attention")
    create = imported("torch.nn.attention.flex_attention", "create_block_mask")
    shift, left, right = workload.all_keys - workload.queries, workload.left, workload.right

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        distance = key - query - shift
        return (distance >= -left if left >= 0 else distance == distance) & (
            distance <= right if right >= 0 else distance == distance
        )

    torch.compiler.reset()
    mask = create(sees, None, None, workload.queries, workload.all_keys, device="cuda")
    attend = torch.compile(flex, dynamic=False)
    return lambda args: attend(*args, block_mask=mask, enable_gqa=True)


def _flash(module: str) -> Any:
    """FlashAttention's function, which takes tokens before heads; transposed views cost no copy."""

    def prepare(workload: WindowAttention, settings: dict[str, Any]) -> Call:
        attend = imported(module, "flash_attn_func")
        if workload.dtype == "float32":
            raise Missing("it takes 16-bit dtypes alone")
        window, causal = (workload.left, workload.right), workload.right == 0

        def call(args: list[Any]) -> Any:
            result = attend(*(t.transpose(1, 2) for t in args), window_size=window, causal=causal)
            return (result[0] if isinstance(result, tuple) else result).transpose(1, 2)

        return call

    return prepare


PEERS = (
    Peer("flex_attention", "window_attention", _flex_attention, compiles=True),
    Peer("sdpa_mask", "window_attention", _sdpa),
    Peer("sdpa_no_window", "window_attention", _without_window, bound=True),
    Peer("flash_attn", "window_attention", _flash("flash_attn")),
    Peer("flash_attn_3", "window_attention", _flash("flash_attn_interface")),
)
