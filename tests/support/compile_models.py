"""Small models that use each op, with example arguments and dynamic shapes, for the tests of compilation."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

import bridge

BATCH = Dim("batch", min=1, max=8)
LENGTH = Dim("length", min=1, max=64)


class Convolutional(nn.Module):
    """Convolution, batch norm and the clipped leaky ReLU."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = bridge.relu(self.norm(self.conv(x)), 0.1, 6.0)
        return self.head(bridge.relu(x.mean((2, 3))))

    @staticmethod
    def example(dtype):
        return (torch.randn(2, 3, 16, 12, dtype=dtype),), {"x": {0: BATCH}}


class Attention(nn.Module):
    """Grouped-query attention with rotated queries and keys."""

    def __init__(self, heads=4, kv_heads=2, head_dim=8):
        super().__init__()
        self.head_dim, width = head_dim, heads * head_dim
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, kv_heads * head_dim)
        self.v = nn.Linear(width, kv_heads * head_dim)
        angles = torch.outer(torch.arange(64.0), 100.0 ** -torch.linspace(0, 1, head_dim // 2))
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, x, position_ids):
        heads = (*x.shape[:-1], -1, self.head_dim)
        q, k, v = (project(x).view(heads).transpose(1, 2) for project in (self.q, self.k, self.v))
        q, k = bridge.rope(q, k, self.cos, self.sin, position_ids)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2).flatten(2)

    @classmethod
    def example(cls, dtype):
        shapes = {0: BATCH, 1: LENGTH}
        return (torch.randn(2, 7, 32, dtype=dtype), *cls.rest((2, 7))), {"x": shapes, "position_ids": shapes}

    @staticmethod
    def rest(shape):
        """The other inputs for an x of a shape."""
        return (torch.arange(shape[1]).repeat(shape[0], 1),)


class Blocks(nn.Module):
    """Attention of each query to the blocks of keys whose mean it resembles."""

    def forward(self, x):
        q = x.unflatten(-1, (4, 8)).transpose(1, 2)
        means = q.unflatten(2, (3, 16)).mean(3)
        mask = q @ means.transpose(2, 3) > 0
        return bridge.block_sparse_attention(q, q / 2, q, mask, query_block=1, key_block=16, causal=True, softcap=2.0)

    @staticmethod
    def example(dtype):
        return (torch.randn(2, 48, 32, dtype=dtype),), {"x": {0: BATCH}}


class Deformable(nn.Module):
    """A plain and a modulated deformable convolution: without and with mask, with and without bias."""

    def __init__(self):
        super().__init__()
        self.offset = nn.Conv2d(4, 18, 3, stride=(2, 1), padding=1)
        self.mask = nn.Conv2d(4, 9, 3, stride=(2, 1), padding=1)
        self.weight = nn.Parameter(torch.randn(6, 4, 3, 3) / 6)
        self.bias = nn.Parameter(torch.randn(6))

    def forward(self, x):
        offset, mask = self.offset(x), self.mask(x).sigmoid()
        plain = bridge.deform_conv2d(x, offset, self.weight, self.bias, stride=(2, 1), padding=1)
        return plain + bridge.deform_conv2d(x, offset, self.weight, None, mask, stride=(2, 1), padding=1)

    @staticmethod
    def example(dtype):
        return (torch.randn(2, 4, 10, 9, dtype=dtype),), {"x": {0: BATCH}}


class MultiScale(nn.Module):
    """Deformable attention of tokens to two levels of themselves: by offsets and logits, and by locations."""

    SHAPES = ((2, 3), (1, 1))

    def __init__(self, heads=4, head_dim=8, points=3):
        super().__init__()
        self.sizes = (heads, len(self.SHAPES), points)
        self.heads = heads
        self.offsets = nn.Linear(heads * head_dim, 2 * heads * len(self.SHAPES) * points)
        self.logits = nn.Linear(heads * head_dim, heads * len(self.SHAPES) * points)
        self.register_buffer("shapes", torch.tensor(self.SHAPES))
        self.register_buffer("references", torch.rand(7, len(self.SHAPES), 2))

    def forward(self, x):
        starts = torch.cat((self.shapes.new_zeros(1), self.shapes.prod(1).cumsum(0)[:-1]))
        levels = x.unflatten(-1, (self.heads, -1)), self.shapes, starts
        offsets = self.offsets(x).unflatten(-1, (*self.sizes, 2))
        logits = self.logits(x).unflatten(-1, self.sizes)
        references = self.references.expand(x.shape[0], -1, -1, -1)
        fused = bridge.ms_deform_attn_fused(*levels, references, offsets, logits)
        locations = references[:, :, None, :, None] + offsets / self.shapes.flip(-1)[:, None]
        return fused + 2 * bridge.ms_deform_attn(*levels, locations, logits.flatten(3).softmax(-1).view_as(logits))

    @staticmethod
    def example(dtype):
        return (torch.randn(2, 7, 32, dtype=dtype),), {"x": {0: BATCH}}


class Regions(nn.Module):
    """A feature map, and a head on regions of it, which are float32 whatever the model's dtype."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.head = nn.Conv2d(8, 4, (2, 3))

    def forward(self, x, rois):
        return self.head(bridge.roi_align(self.body(x), rois, (2, 3), 0.5, sampling_ratio=2, aligned=True))

    @classmethod
    def example(cls, dtype):
        return (torch.randn(2, 3, 16, 12, dtype=dtype), *cls.rest((2,))), {"x": {0: BATCH}, "rois": {0: BATCH}}

    @staticmethod
    def rest(shape):
        """One region per image, so that there is a single dynamic extent."""
        boxes = torch.tensor([[2.0, 3.0, 9.0, 8.0], [-1.0, 4.5, 12.0, 20.0]])
        images = torch.arange(shape[0])
        return (torch.cat((images[:, None], boxes[images % 2]), 1),)


class Structured(nn.Module):
    """Nested arguments and results: literals, an unused tensor, an input and a constant as results, a result twice."""

    def __init__(self):
        super().__init__()
        self.register_buffer("constant", torch.arange(4.0))

    def forward(self, pair, scale=2, unused=None, *, other, options=None):
        x, y = pair["x"], pair["y"]
        total = bridge.relu(x * scale + y)
        return {"total": total, "again": total, "input": x, "rest": [self.constant, None, scale, (other["z"] > 0)]}

    @staticmethod
    def example():
        x = torch.randn(2, 4)
        return ({"x": x, "y": x}, 2, torch.zeros(3)), {"other": {"z": torch.randn(2, 5)}}
