"""torchvision's Swin Transformer, version 1 or 2: images [B, 3, H, W] to class scores [B, classes], dynamic batch.

    python models/swin.py --target sm86 -o swin.engine
    python models/swin.py --version 2 --window 8 --size 256 --target sm86 -o swin_v2.engine

Default: Swin-T's sizes; the second one has Swin-v2-T's.
"""

import argparse

import torch
from common import add_arguments, finish, load_weights, shapes
from torch import nn
from torchvision.models import swin_transformer
from torchvision.models.swin_transformer import SwinTransformer

# For `bridge zoo`.
ZOO = [
    {
        "small": "--width 32 --depths 2 2 --heads 2 4 --size 56 --classes 10",
        "full": "--batch 8 --max-batch 16",
        "about": "Swin-T",
        "rank": 9,
    },
    {
        "part": "v2",
        "small": "--version 2 --window 8 --width 32 --depths 2 2 --heads 2 4 --size 64 --classes 10",
        "full": "--version 2 --window 8 --size 256 --batch 8 --max-batch 16",
        "about": "Swin-v2-T",
        "rank": 15,
    },
]


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--version", type=int, choices=[1, 2], default=1)
    p.add_argument("--width", type=int, default=96, help="channels of the first stage")
    p.add_argument("--depths", type=int, nargs="+", default=[2, 2, 6, 2], help="blocks of each stage")
    p.add_argument("--heads", type=int, nargs="+", default=[3, 6, 12, 24], help="of each stage")
    p.add_argument("--window", type=int, default=7, help="height and width of the windows, in patches of 4 pixels")
    p.add_argument("--classes", type=int, default=1000)
    p.add_argument("--size", type=int, default=224, help="height and width of the images")
    return add_arguments(p, dtype="float16")


def swin(options: argparse.Namespace) -> nn.Module:
    layers = {}
    if options.version == 2:
        layers["block"] = swin_transformer.SwinTransformerBlockV2
        layers["downsample_layer"] = swin_transformer.PatchMergingV2
    window = [options.window, options.window]
    model = SwinTransformer(
        [4, 4], options.width, options.depths, options.heads, window, num_classes=options.classes, **layers
    )
    for norm in model.modules():
        if isinstance(norm, nn.LayerNorm):
            nn.init.ones_(norm.weight)  # version 2 begins with zeros, with which its attention adds nothing
    return model


def bridge_model(argv: list[str]) -> tuple[nn.Module, tuple, dict, dict | None]:
    """The model, its example arguments and its dynamic shapes, for `bridge compile models/swin.py`."""
    options = parser().parse_args(argv)
    torch.manual_seed(options.seed)
    dtype = getattr(torch, options.dtype)
    model = load_weights(swin(options), options).to(dtype).eval()
    images = torch.randn(options.batch, 3, options.size, options.size).to(dtype)
    return model, (images,), {}, shapes(options, {"x": {0: torch.export.Dim("batch", min=1, max=options.max_batch)}})


if __name__ == "__main__":
    finish(bridge_model, parser())
