"""Formulas of published models in plain torch, for which TensorRT has no operator or many."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sympy
import torch
import torch.nn.functional as F
from torch._higher_order_ops.associative_scan import associative_scan

from bridge.generate.program import Symbol, TensorType

B, N, H, W = sympy.symbols("b n h w", integer=True, positive=True)
RANGES = {B: (1, 16, 4), N: (1, 4096, 256), H: (4, 128, 32), W: (4, 128, 32)}  # low, high, example
HALF, FLOAT, BFLOAT, INT, LONG = torch.float16, torch.float32, torch.bfloat16, torch.int32, torch.int64


@dataclass(frozen=True)
class Formula:
    """inputs: (dtype, *shape); integers among them are indices below `below`. kernels: how many, by torch's version.

    points: extents of the symbols, in the order of `symbols()`, at which numbers are compared with eager.
    """

    function: Callable[..., Any]
    inputs: tuple[tuple[Any, ...], ...]
    kernels: int | tuple[int, ...]
    points: tuple[tuple[int, ...], ...]
    below: int = 5

    def counts(self):
        return (self.kernels,) if isinstance(self.kernels, int) else self.kernels

    def types(self):
        return tuple(TensorType(dtype, tuple(shape)) for dtype, *shape in self.inputs)

    def symbols(self):
        found = {}
        for index, (_, *shape) in enumerate(self.inputs):
            for axis, extent in enumerate(shape):
                if extent in RANGES and extent not in found:
                    found[extent] = Symbol(extent, index, axis, *RANGES[extent])
        return tuple(found[symbol] for symbol in RANGES if symbol in found)

    def tensors(self, point, seed=0):
        """Inputs for one point."""
        random = torch.Generator().manual_seed(seed)
        extents = dict(zip((one.symbol for one in self.symbols()), map(sympy.Integer, point), strict=True))
        shapes = [[int(sympy.sympify(extent).xreplace(extents)) for extent in shape] for _, *shape in self.inputs]
        return [
            torch.randn(shape, generator=random).to(dtype)
            if dtype.is_floating_point
            else torch.randint(0, self.below, shape, generator=random, dtype=dtype)
            for (dtype, *_), shape in zip(self.inputs, shapes, strict=True)
        ]


def recurrence(gate, x):
    """h[t] = gate[t] * h[t - 1] + x[t], of state space models. x: [B, N]."""
    mode = "pointwise" if x.is_cuda else "generic"
    return associative_scan(
        lambda p, q: (p[0] * q[0], p[1] * q[0] + q[1]), (gate.sigmoid(), x), dim=1, combine_mode=mode
    )[1]


def rms_norm(x, weight):
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * weight


def cost_volume(left, right):
    """Correlation of each place with those next to it: [B, C, H, W] twice → [B, 9, H, W]."""
    padded = F.pad(right, (1, 1, 1, 1))
    height, width = left.shape[2:]
    shifts = [padded[:, :, y : y + height, x : x + width] for y in range(3) for x in range(3)]
    return torch.stack([(left * one).mean(1) for one in shifts], 1)


def rotary_halves(x, cos, sin):
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def rotary_pairs(x, position):
    frequency = 10000 ** (-torch.arange(0, x.shape[-1], 2, device=x.device).float() / x.shape[-1])
    angle = position.float()[:, None] * frequency
    first, second = x[..., 0::2], x[..., 1::2]
    cos, sin = angle.cos(), angle.sin()
    return torch.stack((first * cos - second * sin, first * sin + second * cos), -1).flatten(-2).to(x.dtype)


def windowed_softmax(scores):
    place = torch.arange(scores.shape[-1], device=scores.device)
    near = (place[:, None] - place[None, :]).abs() <= 3
    return scores.masked_fill(~near, float("-inf")).softmax(-1)


def focal_loss(logits, target):
    probability = logits.sigmoid()
    cross = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    hit = probability * target + (1 - probability) * (1 - target)
    return (0.25 * (1 - hit) ** 2 * cross).mean(1)


def linear_recurrence(gate, x):
    """h[t] = gate[t] * h[t-1] + x[t], in closed form over logarithms."""
    decay = F.logsigmoid(gate).cumsum(1)
    return (x * (-decay).exp()).cumsum(1) * decay.exp()


def window_shift(x):
    """Swin: [B, H, W, C], shifted by 2 → [B, H/4, W/4, 4, 4, C]."""
    shifted = torch.roll(x, (-2, -2), (1, 2))
    return shifted.unflatten(1, (-1, 4)).unflatten(3, (-1, 4)).permute(0, 1, 3, 2, 4, 5)


def bilinear(image, place):
    return F.grid_sample(image, place.tanh(), mode="bilinear", padding_mode="zeros", align_corners=False)


def gather_by_arithmetic(x, row):
    """Indices from a hash of others."""
    index = (row * 7 + 3) % x.shape[1]
    return x.gather(1, index)


def voxel_features(feature, voxel):
    """Sums of the features that fall into each of 8 voxels."""
    return torch.zeros(8, feature.shape[1], dtype=feature.dtype, device=feature.device).index_add(0, voxel, feature)


def embedding_bag(index, table):
    return table[index].mean(1)


def top_two_gate(logits):
    """A gate by two maxima, without topk."""
    first = logits.argmax(-1, keepdim=True)
    rest = logits.scatter(-1, first, float("-inf"))
    second = rest.argmax(-1, keepdim=True)
    weight = torch.cat((logits.gather(-1, first), rest.gather(-1, second)), -1).softmax(-1)
    return weight, torch.cat((first, second), -1)


def sobel(x):
    """A convolution with a constant 3 x 3 kernel, as sums of shifts."""
    kernel = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]], device=x.device)
    padded = F.pad(x, (1, 1, 1, 1))
    height, width = x.shape[-2:]
    return sum(kernel[i, j] * padded[..., i : i + height, j : j + width] for i in range(3) for j in range(3))


def attention(q, k, v):
    return F.scaled_dot_product_attention(q, k, v)


FORMULAS = {
    "layer norm, GELU": Formula(
        lambda x, w, b: F.gelu(F.layer_norm(x, [96], w, b)),
        ((HALF, B, N, 96), (HALF, 96), (HALF, 96)),
        1,
        ((2, 5), (1, 1), (1, 17)),
    ),
    "RMS norm": Formula(rms_norm, ((BFLOAT, B, N, 320), (BFLOAT, 320)), 1, ((2, 3), (1, 17))),
    "RMS norm, torch's": Formula(lambda x, w: F.rms_norm(x, (64,), w), ((HALF, B, N, 64), (HALF, 64)), 1, ((2, 3),)),
    "group norm, SiLU": Formula(
        lambda x, w, b: F.silu(F.group_norm(x, 4, w, b)), ((HALF, B, 8, H, W), (HALF, 8), (HALF, 8)), 3, ((2, 5, 7),)
    ),
    "SwiGLU": Formula(lambda x: F.silu(x[..., :64]) * x[..., 64:], ((BFLOAT, B, N, 128),), 1, ((3, 7), (1, 1))),
    "cost volume": Formula(cost_volume, ((FLOAT, B, 6, H, W), (FLOAT, B, 6, H, W)), 1, ((2, 7, 9), (1, 4, 5))),
    "rotary, halves": Formula(rotary_halves, ((HALF, B, 4, N, 32), (HALF, N, 32), (HALF, N, 32)), 1, ((2, 9),)),
    "rotary, pairs": Formula(rotary_pairs, ((FLOAT, B, N, 16), (INT, N)), 1, ((2, 11),)),
    "windowed softmax": Formula(windowed_softmax, ((HALF, B, N, N),), 1, ((2, 9), (1, 40))),
    "cross entropy": Formula(
        lambda x, y: F.cross_entropy(x, y, reduction="none"), ((FLOAT, N, 50), (LONG, N)), 1, ((7,), (1,))
    ),
    "cross entropy, mean": Formula(lambda x, y: F.cross_entropy(x, y), ((FLOAT, N, 50), (LONG, N)), 2, ((7,), (60,))),
    "KL divergence": Formula(
        lambda p, q: F.kl_div(p.log_softmax(-1), q.softmax(-1), reduction="batchmean"),
        ((FLOAT, N, 33), (FLOAT, N, 33)),
        2,
        ((5,),),
    ),
    "focal loss": Formula(focal_loss, ((FLOAT, B, N), (FLOAT, B, N)), 1, ((3, 100), (1, 1))),
    "cumulative sum": Formula(lambda x: x.cumsum(1), ((FLOAT, B, N),), 1, ((3, 50), (2, 700))),
    "cumulative product": Formula(lambda x: x.cumprod(-1), ((FLOAT, B, N),), 1, ((2, 30),)),
    "gated recurrent cell": Formula(
        lambda x, h, w, u: torch.gru_cell(x, h, w, u), ((FLOAT, N, 8),) * 2 + ((FLOAT, 24, 8),) * 2, 4, ((5,),)
    ),
    "linear recurrence": Formula(linear_recurrence, ((FLOAT, B, N, 8), (FLOAT, B, N, 8)), 2, ((2, 6),)),
    "shifted windows": Formula(window_shift, ((HALF, B, H, W, 6),), (1, 2), ((1, 8, 12),)),
    "bilinear sampling": Formula(bilinear, ((FLOAT, B, 5, H, W), (FLOAT, B, N, 7, 2)), 2, ((2, 3, 6, 5),)),
    "gather by arithmetic": Formula(gather_by_arithmetic, ((FLOAT, B, N), (LONG, B, 20)), 1, ((2, 13), (1, 1))),
    "voxel features": Formula(voxel_features, ((FLOAT, N, 12), (LONG, N)), 2, ((40,), (1,))),
    "embedding bag": Formula(embedding_bag, ((LONG, B, N), (HALF, 50, 24)), 1, ((3, 6),), below=50),
    "variance and mean": Formula(lambda x: torch.var_mean(x, (1, 2)), ((FLOAT, B, H, W),), 1, ((2, 5, 6),)),
    "arg max, max": Formula(lambda x: tuple(x.max(-1)), ((HALF, B, N),), 1, ((3, 20), (1, 1000))),
    "gate of two": Formula(top_two_gate, ((FLOAT, N, 16),), 4, ((9,),)),
    "pixel unshuffle": Formula(lambda x: F.pixel_unshuffle(x, 2), ((HALF, B, 3, H, W),), 1, ((2, 8, 10),)),
    "matmul, softmax": Formula(
        lambda x, y: (x @ y).softmax(-1), ((HALF, B, N, 32), (HALF, B, 32, N)), 2, ((2, 9), (1, 33))
    ),
    "attention": Formula(attention, ((HALF, B, 2, N, 16),) * 3, 3, ((1, 10),)),
    "linear, GELU": Formula(
        lambda x, w, b: F.gelu(F.linear(x, w, b), approximate="tanh"),
        ((FLOAT, N, 24), (FLOAT, 40, 24), (FLOAT, 40)),
        1,
        ((5,), (40,)),
    ),
    "batched vector by matrix": Formula(lambda x, y: x @ y, ((BFLOAT, B, 1, 16), (BFLOAT, B, 16, 24)), 1, ((3,),)),
    "integer matmul": Formula(lambda x, y: x @ y, ((LONG, N, 6), (LONG, 6, 24)), 1, ((5,),)),
    "bfloat16 matmul": Formula(lambda x, y: x @ y, ((BFLOAT, N, 16), (BFLOAT, 16, 24)), 1, ((5,),)),
    "pooling": Formula(
        lambda x: F.max_pool2d(x, 3, 2, 1) + F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        ((FLOAT, B, 3, H, W),),
        1,
        ((1, 8, 12),),
    ),
    "Sobel": Formula(sobel, ((FLOAT, B, H, W),), 2, ((2, 5, 6),)),
    "recurrence by an associative scan": Formula(recurrence, ((FLOAT, B, N), (FLOAT, B, N)), 1, ((2, 600), (3, 2))),
    "sum of everything": Formula(lambda x: x.sum(), ((FLOAT, B, N),), 1, ((2, 600), (16, 4096))),
    "indices": Formula(lambda x: (x > 0).long().cumsum(-1) - 1, ((FLOAT, B, N),), 1, ((2, 31),)),
    "instance norm": Formula(lambda x: F.instance_norm(x), ((FLOAT, B, 3, H, W),), 1, ((2, 5, 4),)),
    "L2 normalise, similarity": Formula(
        lambda x, y: F.normalize(x, dim=-1) @ F.normalize(y, dim=-1).T, ((FLOAT, N, 16), (FLOAT, 30, 16)), 3, ((7,),)
    ),
    "views": Formula(lambda x: (x.transpose(1, 2), x, x[:, 0]), ((FLOAT, B, N, 4),), 3, ((2, 3),)),
    "sorted": Formula(lambda x: x.sort(-1).values, ((FLOAT, N, 16),), 1, ((5,),)),
    "unfold": Formula(lambda x: F.unfold(x, 3, padding=1), ((FLOAT, B, 2, H, W),), 1, ((1, 4, 5),)),
    "upsample": Formula(
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True),
        ((FLOAT, B, 2, H, W),),
        1,
        ((1, 4, 5),),
    ),
}
