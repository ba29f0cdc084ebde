"""transformers' Deformable DETR: images [B, 3, H, W] to class logits [B, queries, 91] and boxes [B, queries, 4].

    python models/deformable_detr.py --target sm86 --height 320 --width 320 -o deformable_detr.engine

The model is transformers' own, with its own ResNet; the pass "ms_deform_attn" finds the attention of every layer of
encoder and decoder. Images fill the batch, so there is no mask of padding. Dynamic batch; height and width make the
levels and are fixed. Default: the sizes of Deformable DETR with ResNet-50.
"""

import argparse

import torch
from common import add_arguments, finish, load_weights, shapes
from torch import Tensor, nn
from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, ResNetConfig

# For `bridge zoo`.
ZOO = [
    {
        "small": "--height 64 --width 96 --layers 1 --decoder-layers 2 --hidden 32 --heads 4 --queries 10"
        " --backbone-width 8 --depths 1 1 1 1",
        "full": "",
        "about": "ResNet-50",
        "rank": 2,
    }
]


class DeformableDetr(nn.Module):
    def __init__(self, config: DeformableDetrConfig) -> None:
        super().__init__()
        self.detr = DeformableDetrForObjectDetection(config)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        found = self.detr(images)
        return found.logits, found.pred_boxes


def configuration(options: argparse.Namespace) -> DeformableDetrConfig:
    width = options.backbone_width
    backbone = ResNetConfig(
        embedding_size=width,
        hidden_sizes=[4 * width, 8 * width, 16 * width, 32 * width],
        depths=options.depths,
        out_features=["stage2", "stage3", "stage4"],
    )
    return DeformableDetrConfig(
        backbone_config=backbone,
        use_timm_backbone=False,
        d_model=options.hidden,
        encoder_layers=options.layers,
        decoder_layers=options.decoder_layers or options.layers,
        encoder_attention_heads=options.heads,
        decoder_attention_heads=options.heads,
        encoder_ffn_dim=4 * options.hidden,
        decoder_ffn_dim=4 * options.hidden,
        num_queries=options.queries,
        num_labels=91,
    )


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--layers", type=int, default=6, help="of the encoder")
    p.add_argument("--decoder-layers", type=int, help="two or more; default: as many as the encoder has")
    p.add_argument("--hidden", type=int, default=256, help="a multiple of 32")
    p.add_argument("--heads", type=int, default=8)
    p.add_argument("--queries", type=int, default=300)
    p.add_argument("--backbone-width", type=int, default=64, help="channels of the backbone's first convolution")
    p.add_argument("--depths", type=int, nargs=4, default=[3, 4, 6, 3], help="blocks of the backbone's stages")
    p.add_argument("--height", type=int, default=800)
    p.add_argument("--width", type=int, default=1066)
    return add_arguments(p, dtype="float16")


def bridge_model(argv: list[str]) -> tuple[nn.Module, tuple, dict, dict | None]:
    """The model, its example arguments and its dynamic shapes, for `bridge compile models/deformable_detr.py`."""
    options = parser().parse_args(argv)
    torch.manual_seed(options.seed)
    dtype = getattr(torch, options.dtype)
    model = DeformableDetr(configuration(options))
    load_weights(model.detr, options)
    images = torch.randn(options.batch, 3, options.height, options.width).to(dtype)
    return (
        model.to(dtype).eval(),
        (images,),
        {},
        shapes(options, {"images": {0: torch.export.Dim("batch", min=1, max=options.max_batch)}}),
    )


if __name__ == "__main__":
    finish(bridge_model, parser())
