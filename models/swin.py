"""torchvision's Swin Transformer: images [B, 3, H, W] to class scores [B, classes], dynamic batch.

    python models/swin.py --target sm86 -o swin.engine

It has no operator that TensorRT does not know: bridge leaves such models as they are. Default: Swin-T's sizes.
"""

import argparse

import torch
from common import add_arguments, finish, load_weights
from torch import nn
from torchvision.models.swin_transformer import SwinTransformer

# For `bridge zoo`.
ZOO = [
    {
        "small": "--width 24 --depths 2 2 --heads 2 4 --size 56 --classes 10",
        "full": "--batch 8 --max-batch 16",
        "about": "Swin-T",
        "rank": 9,
    }
]


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--width", type=int, default=96, help="channels of the first stage")
    p.add_argument("--depths", type=int, nargs="+", default=[2, 2, 6, 2], help="blocks of each stage")
    p.add_argument("--heads", type=int, nargs="+", default=[3, 6, 12, 24], help="of each stage")
    p.add_argument("--classes", type=int, default=1000)
    p.add_argument("--size", type=int, default=224, help="height and width of the images")
    return add_arguments(p, dtype="float16")


def bridge_model(argv: list[str]) -> tuple[nn.Module, tuple, dict, dict]:
    """The model, its example arguments and its dynamic shapes, for `bridge compile models/swin.py`."""
    options = parser().parse_args(argv)
    torch.manual_seed(options.seed)
    dtype = getattr(torch, options.dtype)
    swin = SwinTransformer([4, 4], options.width, options.depths, options.heads, [7, 7], num_classes=options.classes)
    model = load_weights(swin, options).to(dtype).eval()
    images = torch.randn(options.batch, 3, options.size, options.size).to(dtype)
    return model, (images,), {}, {"x": {0: torch.export.Dim("batch", min=1, max=options.max_batch)}}


if __name__ == "__main__":
    finish(bridge_model, parser())
