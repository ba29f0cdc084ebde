"""A step of BasicVSR++'s propagation between frames: flow-guided deformable alignment, then residual blocks.

    python models/basicvsr.py --target sm86 --height 180 --width 320 -o basicvsr.engine

The alignment is torchvision's deform_conv2d, with 16 offset groups; the model knows nothing of bridge. Height and width
are dynamic.

Source: Chan et al., "BasicVSR++: Improving Video Super-Resolution with Enhanced Propagation and Alignment",
https://arxiv.org/abs/2104.13371, sections 3.1 and 3.2.
"""

import argparse

import torch
import torch.nn.functional as F
from common import add_arguments, finish, load_weights, shapes
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

# For `bridge zoo`.
ZOO = [
    {
        "small": "--height 24 --width 32 --channels 16 --groups 4 --blocks 1 --batch 1 --max-height 40 --max-width 48",
        "full": "--height 180 --width 320 --batch 1 --max-height 360 --max-width 640",
        "about": "BasicVSR++, a step",
        "rank": 17,
    },
    {
        "part": "fixed size",
        "small": "--height 24 --width 32 --channels 16 --groups 4 --blocks 1 --batch 1 --fixed",
        "full": "--height 180 --width 320 --batch 1 --fixed",
        "about": "BasicVSR++, a step",
        "rank": 18,
    },
]
LEAST_SIDE = 16  # of the dynamic height and width


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """x [B, C, H, W] sampled where flow [B, 2, H, W], in pixels and x before y, points; zeros outside.

    Coordinates are float32, as automatic mixed precision has them: float16 steps by a quarter of a pixel from 256 on.
    """
    height, width = x.shape[2:]
    flow = flow.float()
    ys = torch.arange(height, device=x.device)[:, None]
    xs = torch.arange(width, device=x.device)
    across = 2 * (flow[:, 0] + xs) / (width - 1) - 1
    down = 2 * (flow[:, 1] + ys) / (height - 1) - 1
    return F.grid_sample(x.float(), torch.stack((across, down), 3), align_corners=True).to(x.dtype)


class Alignment(nn.Module):
    """Second-order deformable alignment: both earlier features at once, by offsets around two flows."""

    def __init__(self, channels: int, groups: int, reach: float = 10.0) -> None:
        super().__init__()
        self.reach = reach
        layers: list[nn.Module] = []
        for inputs in (3 * channels + 4, channels, channels):
            layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.LeakyReLU(0.1)]
        self.predict = nn.Sequential(*layers, nn.Conv2d(channels, 27 * groups, 3, padding=1))
        self.weight = nn.Parameter(torch.empty(channels, 2 * channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(channels))
        nn.init.kaiming_uniform_(self.weight)

    def forward(self, features: Tensor, conditions: Tensor, flows: tuple[Tensor, Tensor]) -> Tensor:
        """features: [B, 2C, H, W], of both frames. conditions: [B, 3C, H, W]. flows: [B, 2, H, W] each."""
        first, second, mask = self.predict(torch.cat((conditions, *flows), 1)).chunk(3, 1)
        offsets = (self.reach * torch.tanh(torch.cat((first, second), 1))).chunk(2, 1)
        around = [
            offset + flow.flip(1).repeat(1, offset.shape[1] // 2, 1, 1)
            for offset, flow in zip(offsets, flows, strict=True)
        ]
        return deform_conv2d(
            features, torch.cat(around, 1), self.weight, self.bias, padding=1, mask=torch.sigmoid(mask)
        )


class ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(x)))


class Propagation(nn.Module):
    """Features of a frame from its own and from those of the two frames before it."""

    def __init__(self, channels: int, groups: int, blocks: int) -> None:
        super().__init__()
        self.align = Alignment(channels, groups)
        self.refine = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 3, padding=1),
            nn.LeakyReLU(0.1),
            *(ResidualBlock(channels) for _ in range(blocks)),
        )

    def forward(self, current: Tensor, first: Tensor, second: Tensor, flow: Tensor, flow_to_second: Tensor) -> Tensor:
        """Features are [B, C, H, W], flows from this frame to the one before and to the second before [B, 2, H, W]."""
        conditions = torch.cat((warp(first, flow), current, warp(second, flow_to_second)), 1)
        aligned = self.align(torch.cat((first, second), 1), conditions, (flow, flow_to_second))
        return aligned + self.refine(torch.cat((current, aligned), 1))


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--channels", type=int, default=64)
    p.add_argument("--groups", type=int, default=16, help="of offsets")
    p.add_argument("--blocks", type=int, default=7, help="residual blocks")
    p.add_argument("--height", type=int, default=180)
    p.add_argument("--width", type=int, default=320)
    p.add_argument("--max-height", type=int, default=720)
    p.add_argument("--max-width", type=int, default=1280)
    return add_arguments(p, dtype="float16")


def bridge_model(argv: list[str]) -> tuple[nn.Module, tuple, dict, dict | None]:
    """The model, its example arguments and its dynamic shapes, for `bridge compile models/basicvsr.py`."""
    options = parser().parse_args(argv)
    torch.manual_seed(options.seed)
    dtype = getattr(torch, options.dtype)
    model = load_weights(Propagation(options.channels, options.groups, options.blocks), options).to(dtype).eval()
    plane = (options.height, options.width)
    features = [torch.randn(options.batch, options.channels, *plane).to(dtype) for _ in range(3)]
    flows = [(3 * torch.randn(options.batch, 2, *plane)).to(dtype) for _ in range(2)]
    sides = {
        2: torch.export.Dim("height", min=LEAST_SIDE, max=options.max_height),
        3: torch.export.Dim("width", min=LEAST_SIDE, max=options.max_width),
    }
    names = ("current", "first", "second", "flow", "flow_to_second")
    return model, (*features, *flows), {}, shapes(options, dict.fromkeys(names, sides))


if __name__ == "__main__":
    finish(bridge_model, parser())
