"""A model that uses every op, some with attributes that are no defaults, for the tests of its life beyond engines."""

import torch
from compile_models import BATCH, Attention, Convolutional, Deformable, MultiScale, Regions
from samples import PAIRS
from torch import nn

import bridge
from bridge.core.op import OPS


class Calls(nn.Module):
    """Every op once, with arguments of its samples, which the module holds."""

    def __init__(self):
        super().__init__()
        for name, (args, _, _) in PAIRS.items():
            for index, value in enumerate(args):
                self.register_buffer(f"{name}_{index}", value)

    def forward(self):
        return {
            name: OPS[name].overload(*(getattr(self, f"{name}_{index}") for index in range(len(args))), **kwargs)
            for name, (args, _, kwargs) in PAIRS.items()
        }


class Every(nn.Module):
    """Each model of compile_models, the ops with strings, flags and missing tensors, and every op as in its samples."""

    def __init__(self):
        super().__init__()
        self.convolutional = Convolutional()
        self.attention = Attention()
        self.deformable = Deformable()
        self.multi_scale = MultiScale()
        self.regions = Regions()
        self.calls = Calls()

    def forward(self, image, tokens, position_ids, features, rois):
        q = tokens.unflatten(-1, (4, 8))
        table = self.attention.cos[:7, :2], self.attention.sin[:7, :2]
        q, k = bridge.rope(q, q[:, :, :1], *table, interleaved=True, rotary_dim=4, layout="bshd")
        return {
            "image": self.convolutional(image),
            "tokens": self.attention(tokens, position_ids),
            "features": bridge.relu(self.deformable(features), 0.25),
            "rotated": (q, k),
            "attended": self.multi_scale(tokens),
            "regions": self.regions(image, rois),
            "calls": self.calls(),
        }

    @staticmethod
    def example(batch=2, device="cpu"):
        """Arguments of that batch, and dynamic shapes."""
        torch.manual_seed(batch)
        args = (
            torch.randn(batch, 3, 16, 12),
            torch.randn(batch, 7, 32),
            torch.arange(7).repeat(batch, 1),
            torch.randn(batch, 4, 10, 9),
            torch.cat((torch.arange(batch)[:, None], torch.rand(batch, 4) * 12), 1),
        )
        return tuple(tensor.to(device) for tensor in args), tuple({0: BATCH} for _ in args)

    @classmethod
    def make(cls, device="cpu"):
        """The same weights at every call, in eval mode."""
        torch.manual_seed(0)
        return cls().eval().to(device)
