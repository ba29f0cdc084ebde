"""What others have for the same workloads: each a function from arguments to a call, or a reason why it cannot run."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import bridge
from bridge.bench.workload import Workload
from bridge.bench.workloads import DeformConv2d, MsDeformAttn, Rope

Call = Callable[[list[Any]], Any]


class Missing(Exception):
    """A peer cannot run here, or not this workload; the message says why."""


@dataclass(frozen=True)
class Peer:
    """prepare: gives the call for a workload, or raises Missing. bound: it computes less, and is only a bound."""

    name: str
    op: str
    prepare: Callable[[Workload, dict[str, Any]], Call]
    bound: bool = False


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    torch.compiler.reset()
    return torch.compile(function, dynamic=False)


def _relu(wrap: Callable[..., Any]) -> Callable[[Workload, dict[str, Any]], Call]:
    def prepare(workload: Workload, settings: dict[str, Any]) -> Call:
        slope, most = settings["negative_slope"], settings["max_value"]

        def relu(x: Tensor) -> Tensor:
            y = F.leaky_relu(x, slope) if slope else F.relu(x)
            return y.clamp_max(most) if most != float("inf") else y

        wrapped = wrap(relu)
        return lambda args: wrapped(args[0])

    return prepare


def _rope(wrap: Callable[..., Any]) -> Callable[[Workload, dict[str, Any]], Call]:
    """As models in PyTorch write it; the tables, which a model makes once for all its layers, are made outside."""

    def prepare(workload: Workload, settings: dict[str, Any]) -> Call:
        assert isinstance(workload, Rope)
        axis, interleaved = 1 if workload.layout == "bshd" else 0, workload.interleaved

        def full(table: Tensor, dtype: torch.dtype) -> Tensor:
            wide = table.repeat_interleave(2, -1) if interleaved else torch.cat((table, table), -1)
            return wide.to(dtype).unsqueeze(axis)

        def turn(x: Tensor) -> Tensor:
            if interleaved:
                return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
            low, high = x.chunk(2, -1)
            return torch.cat((-high, low), -1)

        def rope(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
            return q * cos + turn(q) * sin, k * cos + turn(k) * sin

        wrapped, tables = wrap(rope), _Once(lambda args: [full(table, args[0].dtype) for table in args[2:]])
        return lambda args: wrapped(args[0], args[1], *tables(args))

    return prepare


class _Once:
    """What is made of the arguments outside the time: in the first call with them, which is not timed."""

    def __init__(self, make: Callable[[list[Any]], Any]) -> None:
        self._make = make
        self._made: dict[int, Any] = {}

    def __call__(self, args: list[Any]) -> Any:
        key = id(args[0])
        if key not in self._made:
            self._made[key] = self._make(args)
        return self._made[key]


def _token_major(module: str, name: str) -> Callable[[Workload, dict[str, Any]], Call]:
    """FlashInfer's function and SGLang's, which take the same arguments."""

    def prepare(workload: Workload, settings: dict[str, Any]) -> Call:
        assert isinstance(workload, Rope)
        apply = _import(module, name)
        if workload.layout != "bshd":
            raise Missing("it takes tokens before heads alone")
        positions = torch.arange(workload.seq, device="cuda").repeat(workload.batch)
        cache = _Once(lambda args: torch.cat(args[2:], -1))

        def call(args: list[Any]) -> Any:
            q, k = (tensor.flatten(0, 1).flatten(1) for tensor in args[:2])
            results = apply(positions, q, k, workload.head_dim, cache(args), is_neox=not workload.interleaved)
            return (q, k) if results is None else results  # one of them writes over its arguments

        return call

    return prepare


def _liger(workload: Workload, settings: dict[str, Any]) -> Call:
    """It wants heads before tokens as a view of tokens before heads, and copies what lies otherwise, as here."""
    assert isinstance(workload, Rope)
    apply = _import("liger_kernel.ops.rope", "LigerRopeFunction").apply
    if workload.layout != "bhsd" or workload.interleaved:
        raise Missing("it takes half-split pairs with heads before tokens alone")
    tables = _Once(lambda args: [torch.cat((t, t), -1)[None].to(args[0].dtype) for t in args[2:]])
    return lambda args: apply(args[0], args[1], *tables(args))


def _torchvision(workload: Workload, settings: dict[str, Any]) -> Call:
    deform_conv2d = _import("torchvision.ops", "deform_conv2d")

    def call(args: list[Any]) -> Tensor:
        x, offset, weight, bias, mask = args
        return deform_conv2d(x, offset, weight, bias, **settings, mask=mask)

    return call


def _nms(workload: Workload, settings: dict[str, Any]) -> Call:
    nms = _import("torchvision.ops", "nms")
    return lambda args: nms(args[0], args[1], **settings)


def _roi_align(workload: Workload, settings: dict[str, Any]) -> Call:
    roi_align = _import("torchvision.ops", "roi_align")
    rois = _Once(lambda args: args[1].to(args[0].dtype))  # it takes one dtype alone
    return lambda args: roi_align(args[0], rois(args), **settings)


def _roi_align_in_torch(workload: Workload, settings: dict[str, Any]) -> Call:
    """What torchvision falls back on, in PyTorch's operations, which Inductor fuses."""
    own = _import("torchvision.ops.roi_align", "_roi_align")
    height, width = settings["output_size"]
    scale, ratio, aligned = (settings[name] for name in ("spatial_scale", "sampling_ratio", "aligned"))
    if ratio <= 0:
        raise Missing("with adaptive sampling it takes memory for as many samples as the map has pixels")
    compiled = _compiled(lambda x, rois: own(x, rois, scale, height, width, ratio, aligned))
    rois = _Once(lambda args: args[1].to(args[0].dtype))
    return lambda args: compiled(args[0], rois(args))


def _mmcv(workload: Workload, settings: dict[str, Any]) -> Call:
    assert isinstance(workload, DeformConv2d)
    if workload.channels_last:
        raise Missing("it takes a channels-last feature map for one that is not")
    apply = _import("mmcv.ops.modulated_deform_conv", "modulated_deform_conv2d")
    extents = [settings[name] for name in ("stride", "padding", "dilation")]

    def call(args: list[Any]) -> Tensor:
        x, offset, weight, bias, mask = args
        return apply(x, offset, mask, weight, bias, *extents, workload.groups, workload.offset_groups)

    return call


def _conv2d(memory_format: torch.memory_format) -> Callable[[Workload, dict[str, Any]], Call]:
    def prepare(workload: Workload, settings: dict[str, Any]) -> Call:
        assert isinstance(workload, DeformConv2d)
        # A model keeps this layout throughout.
        laid_out = _Once(lambda args: [args[i].contiguous(memory_format=memory_format) for i in (0, 2)])

        def call(args: list[Any]) -> Tensor:
            x, weight = laid_out(args)
            return F.conv2d(x, weight, args[3], **settings, groups=workload.groups)

        return call

    return prepare


def _points(workload: MsDeformAttn, args: list[Any]) -> tuple[Tensor, Tensor]:
    """Locations and weights, as Deformable DETR's module makes them where the op does it itself."""
    if workload.op == "ms_deform_attn":
        return args[3], args[4]
    _, shapes, _, references, offsets, logits = args
    locations = references[:, :, None, :, None] + offsets / shapes.flip(1)[:, None]
    return locations, logits.flatten(3).softmax(-1).view_as(logits)


def _grid_sample(wrap: Callable[..., Any]) -> Callable[[Workload, dict[str, Any]], Call]:
    """Deformable attention as models in PyTorch write it: a grid_sample for each level."""

    def prepare(workload: Workload, settings: dict[str, Any]) -> Call:
        assert isinstance(workload, MsDeformAttn)
        counts = [height * width for height, width in workload.levels]

        def attend(*args: Tensor) -> Tensor:
            locations, weights = _points(workload, list(args))
            grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1).unbind(2)  # [N * H, Q, P, 2] a level
            maps = args[0].transpose(1, 2).flatten(0, 1).transpose(1, 2).split(counts, 2)  # [N * H, D, h * w]
            samples = [
                F.grid_sample(x.unflatten(2, size), grid.to(x.dtype), align_corners=False)
                for x, grid, size in zip(maps, grids, workload.levels, strict=True)
            ]  # each [N * H, D, Q, P]
            shares = weights.transpose(1, 2).flatten(0, 1).flatten(2).unsqueeze(1)  # [N * H, 1, Q, L * P]
            summed = (torch.cat(samples, -1) * shares).sum(-1)  # [N * H, D, Q]
            return summed.unflatten(0, (workload.batch, -1)).flatten(1, 2).transpose(1, 2)

        wrapped = wrap(attend)
        return lambda args: wrapped(*args)

    return prepare


def _ms_deform_attn(module: str, name: str) -> Callable[[Workload, dict[str, Any]], Call]:
    """The CUDA operator of Deformable DETR, and mmcv's of the same arguments; both take images 64 at a time."""

    def prepare(workload: Workload, settings: dict[str, Any]) -> Call:
        assert isinstance(workload, MsDeformAttn)
        found = _import(module, name)
        apply = getattr(found, "apply", found)
        return lambda args: apply(*args[:3], *(t.contiguous() for t in _points(workload, args)), 64)

    return prepare


def _unfused(workload: Workload, settings: dict[str, Any]) -> Call:
    assert isinstance(workload, MsDeformAttn)
    return lambda args: bridge.ms_deform_attn(*args[:3], *_points(workload, args))


def _import(module: str, name: str) -> Any:
    try:
        return getattr(import_module(module), name)
    except Exception as error:  # of any kind: packages fail in their own ways where a GPU or library is not theirs
        raise Missing(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else module}") from error


PEERS: tuple[Peer, ...] = (
    Peer("eager", "relu", _relu(_plain)),
    Peer("inductor", "relu", _relu(_compiled)),
    Peer("eager", "rope", _rope(_plain)),
    Peer("inductor", "rope", _rope(_compiled)),
    Peer("flashinfer", "rope", _token_major("flashinfer.rope", "apply_rope_with_cos_sin_cache")),
    Peer("liger", "rope", _liger),
    Peer("sglang", "rope", _token_major("sgl_kernel", "apply_rope_with_cos_sin_cache_inplace")),
    Peer("torchvision", "deform_conv2d", _torchvision),
    Peer("mmcv", "deform_conv2d", _mmcv),
    *(
        Peer(name, op, prepare)
        for op in ("ms_deform_attn", "ms_deform_attn_fused")
        for name, prepare in (
            ("eager", _grid_sample(_plain)),
            ("inductor", _grid_sample(_compiled)),
            ("deformable-detr", _ms_deform_attn("MultiScaleDeformableAttention", "ms_deform_attn_forward")),
            ("mmcv", _ms_deform_attn("mmcv.ops.multi_scale_deform_attn", "MultiScaleDeformableAttnFunction")),
        )
    ),
    Peer("unfused", "ms_deform_attn_fused", _unfused),
    Peer("torchvision", "nms", _nms),
    Peer("torchvision", "roi_align", _roi_align),
    Peer("inductor", "roi_align", _roi_align_in_torch),
    Peer("conv2d", "deform_conv2d", _conv2d(torch.contiguous_format), bound=True),
    Peer("conv2d, channels-last", "deform_conv2d", _conv2d(torch.channels_last), bound=True),
)


def select(names: list[str]) -> list[Peer]:
    """Peers of these names; none: all. ValueError: a name that no peer has."""
    known = sorted({peer.name for peer in PEERS})
    for name in names:
        if name not in known:
            raise ValueError(f"no peer is called {name!r}; there are {', '.join(known)}")
    return [peer for peer in PEERS if not names or peer.name in names]
