"""Functions of published models in plain torch, for `bridge bench --generated`: any dtype, sums in float32 at least."""

import torch
import torch.nn.functional as F
from torch import Tensor

GROUPS = 32
FREQUENT = 0.25  # the weight of the focal loss's frequent class
NEAR = 128  # places to each side that windowed_softmax looks at


def wide(x: Tensor) -> Tensor:
    """The same in float32, or float64 if it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """x: [..., C]. weight: [C]. Returns the shape of x."""
    values = wide(x)
    return (values * torch.rsqrt(values.square().mean(-1, keepdim=True) + 1e-6) * weight).to(x.dtype)


def swiglu(x: Tensor) -> Tensor:
    """The gate of Llama's perceptron, both halves in one tensor. x: [N, 2 C]. Returns [N, C]."""
    gate, values = x.chunk(2, -1)
    return F.silu(gate) * values


def layer_norm_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x: [B, N, C]. weight, bias: [C]. Returns the shape of x."""
    return F.gelu(F.layer_norm(x, x.shape[-1:], weight, bias))


def group_norm_silu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Before each convolution of a diffusion model. x: [B, C, H, W]. weight, bias: [C]. Returns the shape of x."""
    return F.silu(F.group_norm(x, GROUPS, weight, bias))


def focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """RetinaNet's, of each image. logits, target: [B, N]. Returns [B]."""
    probability = logits.sigmoid()
    cross = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    hit = probability * target + (1 - probability) * (1 - target)
    weight = (1 - FREQUENT) * target + FREQUENT * (1 - target)
    return (weight * (1 - hit).square() * cross).mean(1)


def cost_volume(left: Tensor, right: Tensor) -> Tensor:
    """Correlation with the 9 places around, as in PWC-Net. left, right: [B, C, H, W]. Returns [B, 9, H, W]."""
    padded = F.pad(right, (1, 1, 1, 1))
    height, width = left.shape[2:]
    shifted = [padded[:, :, y : y + height, x : x + width] for y in range(3) for x in range(3)]
    return torch.stack([(left * each).mean(1) for each in shifted], 1)


def cumulative_sum(x: Tensor) -> Tensor:
    """x: [B, N]. Returns the same shape."""
    return x.cumsum(-1)


def windowed_softmax(scores: Tensor) -> Tensor:
    """scores: [B, N, N]. Returns the same shape, 0 where places are far from each other."""
    place = torch.arange(scores.shape[-1], device=scores.device)
    near = (place[:, None] - place).abs() <= NEAR
    return scores.masked_fill(~near, float("-inf")).softmax(-1)


def attention_weights(q: Tensor, k: Tensor) -> Tensor:
    """The softmax of a product. q: [B, N, C]. k: [B, C, N]. Returns [B, N, N]."""
    return ((q @ k) * q.shape[-1] ** -0.5).softmax(-1)
