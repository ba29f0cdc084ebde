"""A small CNN whose activation TensorRT has no layer for: leaky ReLU clipped at 6.

python models/relu_net.py --target sm86 -o relu_net.engine
"""

import argparse

import torch
from common import add_arguments, finish, load_weights, shapes
from torch import Tensor, nn

import bridge

# For `bridge zoo`.
ZOO = [{"small": "--width 8", "full": "--width 64 --batch 8 --size 512", "about": "width 64", "rank": 11}]


class ClippedLeakyReLU(nn.Module):
    def __init__(self, negative_slope: float = 0.1, max_value: float = 6.0) -> None:
        super().__init__()
        self.negative_slope, self.max_value = negative_slope, max_value

    def forward(self, x: Tensor) -> Tensor:
        return bridge.relu(x, self.negative_slope, self.max_value)


def block(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), ClippedLeakyReLU())


class ReluNet(nn.Module):
    """Images [N, 3, H, W] to class scores [N, classes]."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(block(3, width, 2), block(width, 2 * width, 2), block(2 * width, 4 * width, 2))
        self.head = nn.Linear(4 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).mean(dim=(2, 3)))


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--width", type=int, default=32, help="channels of the first block")
    p.add_argument("--classes", type=int, default=10)
    p.add_argument("--size", type=int, default=96, help="height and width of the example image")
    return add_arguments(p, dtype="float16")


def bridge_model(argv: list[str]) -> tuple[nn.Module, tuple, dict, dict | None]:
    """The model, its example arguments and its dynamic shapes, for `bridge compile models/relu_net.py`."""
    options = parser().parse_args(argv)
    torch.manual_seed(options.seed)
    model = load_weights(ReluNet(options.width, options.classes), options).to(getattr(torch, options.dtype)).eval()
    images = torch.randn(options.batch, 3, options.size, options.size).to(getattr(torch, options.dtype))
    batch = torch.export.Dim("batch", min=1, max=options.max_batch)
    side = torch.export.Dim("eighth_height", min=4, max=128), torch.export.Dim("eighth_width", min=4, max=128)
    return model, (images,), {}, shapes(options, {"images": {0: batch, 2: 8 * side[0], 3: 8 * side[1]}})


if __name__ == "__main__":
    finish(bridge_model, parser())
