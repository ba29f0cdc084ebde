"""torchvision's Mask R-CNN, in the two parts between which its shapes depend on values.

    python models/mask_rcnn.py --part rpn --target sm86 -o rpn.engine
    python models/mask_rcnn.py --part heads --target sm86 -o heads.engine

`rpn`: images [B, 3, H, W] to the four maps of the pyramid, and for each of its five levels the scores and offsets of
regions. What is between, a choice of regions for each image, is torchvision's and stays in PyTorch:
`model.rpn.filter_proposals`. `heads`: the maps and K regions of any of the images to class logits [K, classes], box
offsets [K, 4 classes] and masks [K, classes, 28, 28]. Batch and K are dynamic.
"""

import argparse

import torch
from common import add_arguments, finish, load_weights, shapes
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import MultiScaleRoIAlign

import bridge

# For `bridge zoo`.
ZOO = [
    {
        "part": "rpn",
        "small": "--part rpn --backbone resnet18 --size 64",
        "full": "--part rpn",
        "about": "ResNet-50, backbone to scores and offsets of regions",
        "rank": 10,
    },
    {
        "part": "heads",
        "small": "--part heads --backbone resnet18 --classes 5 --size 64 --regions 6",
        "full": "--part heads",
        "about": "heads on 1000 regions",
        "rank": 6,
    },
]
LEVELS = ("0", "1", "2", "3")  # the names of the maps that regions are taken from
STRIDES = (4, 8, 16, 32)


class Proposals(nn.Module):
    """Backbone, pyramid and the head of the region proposal network."""

    def __init__(self, model: MaskRCNN) -> None:
        super().__init__()
        self.backbone, self.head = model.backbone, model.rpn.head

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        maps = self.backbone(images)
        scores, offsets = self.head(list(maps.values()))
        return [maps[name] for name in LEVELS], scores, offsets


class Pyramid(nn.Module):
    """torchvision's MultiScaleRoIAlign for any number of regions: each from the level of its size.

    torchvision's sorts regions by level, so that shapes depend on values. This asks every level for every region; to a
    level that is not its own a region lies outside the map, where samples are zero, and the sum is the right level's.
    Regions are float32, also beside maps of 16 bits, which would round corners to half a pixel.
    """

    def __init__(self, pool: MultiScaleRoIAlign) -> None:
        super().__init__()
        self.output_size, self.samples = pool.output_size, pool.sampling_ratio
        self.canonical_scale, self.canonical_level = pool.canonical_scale, pool.canonical_level

    def forward(self, maps: list[Tensor], rois: Tensor) -> Tensor:
        scales = ((rois[:, 3:4] - rois[:, 1:2]) * (rois[:, 4:5] - rois[:, 2:3])).sqrt()  # [K, 1]
        levels = (self.canonical_level + torch.log2(scales / self.canonical_scale) + 1e-6).floor().clamp(2, 5)
        outside = torch.cat((rois[:, :1], rois[:, 1:] * 0 - 1e5), 1)
        parts = [
            bridge.roi_align(x, torch.where(levels == level, rois, outside), self.output_size, 0.5**level, self.samples)
            for level, x in enumerate(maps, start=2)
        ]
        return parts[0] + parts[1] + parts[2] + parts[3]


class Heads(nn.Module):
    """What follows the choice of regions. rois: [K, 5], the image's number and the corners in pixels."""

    def __init__(self, model: MaskRCNN) -> None:
        super().__init__()
        heads = model.roi_heads
        self.box_pool, self.mask_pool = Pyramid(heads.box_roi_pool), Pyramid(heads.mask_roi_pool)
        self.box_head, self.box_predictor = heads.box_head, heads.box_predictor
        self.mask_head, self.mask_predictor = heads.mask_head, heads.mask_predictor

    def forward(self, maps: list[Tensor], rois: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        classes, boxes = self.box_predictor(self.box_head(self.box_pool(maps, rois)))
        return classes, boxes, self.mask_predictor(self.mask_head(self.mask_pool(maps, rois)))


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--part", choices=("rpn", "heads"), default="heads")
    p.add_argument("--backbone", default="resnet50", help="any ResNet of torchvision's")
    p.add_argument("--classes", type=int, default=91)
    p.add_argument("--size", type=int, default=800, help="height and width of the images, a multiple of 32")
    p.add_argument("--regions", type=int, default=1000, help="of the example")
    p.add_argument("--max-regions", type=int, default=2000)
    return add_arguments(p, dtype="float16")


def bridge_model(argv: list[str]) -> tuple[nn.Module, tuple, dict, dict | None]:
    """The part, its example arguments and its dynamic shapes, for `bridge compile models/mask_rcnn.py`."""
    options = parser().parse_args(argv)
    torch.manual_seed(options.seed)
    dtype = getattr(torch, options.dtype)
    backbone = resnet_fpn_backbone(backbone_name=options.backbone, weights=None)
    model = load_weights(MaskRCNN(backbone, options.classes), options).to(dtype)
    batch = {0: torch.export.Dim("batch", min=1, max=options.max_batch)}
    if options.part == "rpn":
        images = torch.randn(options.batch, 3, options.size, options.size).to(dtype)
        return Proposals(model).eval(), (images,), {}, shapes(options, {"images": batch})
    sides = [options.size // stride for stride in STRIDES]
    maps = [torch.randn(options.batch, backbone.out_channels, side, side).to(dtype) for side in sides]
    regions = {0: torch.export.Dim("regions", min=1, max=options.max_regions)}
    dynamic = shapes(options, {"maps": [batch] * len(maps), "rois": regions})
    return Heads(model).eval(), (maps, some_regions(options.batch, options.regions, options.size)), {}, dynamic


def some_regions(batch: int, count: int, size: int) -> Tensor:
    """Regions of all sizes within random images of the batch: [count, 5], float32."""
    sides = size * 2 ** (-5 * torch.rand(count, 2))
    corners = torch.rand(count, 2) * (size - sides)
    return torch.cat((torch.randint(0, batch, (count, 1)), corners, corners + sides), 1)


if __name__ == "__main__":
    finish(bridge_model, parser())
