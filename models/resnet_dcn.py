"""torchvision's ResNet-50 with modulated deformable convolutions for the 3×3 convolutions of its last three stages.

    python models/resnet_dcn.py --target sm86 -o resnet_dcn.engine

Source: Zhu et al., "Deformable ConvNets v2", https://arxiv.org/abs/1811.11168.
"""

import argparse

import torch
from common import add_arguments, finish, load_weights, shapes
from torch import Tensor, nn
from torchvision.models import resnet50

import bridge

# For `bridge zoo`.
ZOO = [
    {"small": "--size 64 --classes 10", "full": "--batch 8 --max-batch 16", "about": "ResNet-50", "rank": 3},
    {
        "part": "fixed batch",
        "small": "--size 64 --classes 10 --fixed",
        "full": "--batch 8 --fixed",
        "about": "ResNet-50",
        "rank": 16,
    },
]
STAGES = ("layer2", "layer3", "layer4")


class DeformConv2d(nn.Module):
    """A modulated deformable convolution: offsets and mask come from an ordinary convolution of the same input."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.stride, self.padding, self.dilation = conv.stride, conv.padding, conv.dilation
        self.weight = conv.weight
        self.taps = conv.kernel_size[0] * conv.kernel_size[1]
        self.predict = nn.Conv2d(
            conv.in_channels, 3 * self.taps, conv.kernel_size, conv.stride, conv.padding, conv.dilation
        )

    def forward(self, x: Tensor) -> Tensor:
        offset, mask = self.predict(x).split([2 * self.taps, self.taps], dim=1)
        return bridge.deform_conv2d(
            x, offset, self.weight, None, mask.sigmoid(), self.stride, self.padding, self.dilation
        )


def deformable_resnet50(classes: int) -> nn.Module:
    model = resnet50(weights=None, num_classes=classes)
    for stage in STAGES:
        for bottleneck in getattr(model, stage):
            bottleneck.conv2 = DeformConv2d(bottleneck.conv2)
    return model


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--classes", type=int, default=1000)
    p.add_argument("--size", type=int, default=224, help="height and width of the images")
    return add_arguments(p, dtype="float16")


def bridge_model(argv: list[str]) -> tuple[nn.Module, tuple, dict, dict | None]:
    """The model, its example arguments and its dynamic shapes, for `bridge compile models/resnet_dcn.py`."""
    options = parser().parse_args(argv)
    torch.manual_seed(options.seed)
    dtype = getattr(torch, options.dtype)
    model = load_weights(deformable_resnet50(options.classes), options).to(dtype).eval()
    images = torch.randn(options.batch, 3, options.size, options.size).to(dtype)
    return model, (images,), {}, shapes(options, {"x": {0: torch.export.Dim("batch", min=1, max=options.max_batch)}})


if __name__ == "__main__":
    finish(bridge_model, parser())
