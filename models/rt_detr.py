"""transformers' RT-DETR: images [B, 3, H, W] to class logits [B, queries, 80] and boxes [B, queries, 4].

    python models/rt_detr.py --target sm86 --size 320 -o rt_detr.engine

The model is transformers' own; the pass "ms_deform_attn" finds the attention of every layer of the decoder. Shapes are
fixed, the batch too, which the model's code takes for a number. The decoder starts from the best positions of the
encoder: where two score alike, rounding decides which comes first, and in 16 bits which comes at all: hence float32.
Default: the sizes of RT-DETR with ResNet-50.
"""

import argparse

import torch
from common import add_arguments, finish, load_weights
from torch import Tensor, nn
from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

# For `bridge zoo`. Queries come in no certain order.
ZOO = [
    {
        "small": "--size 64 --layers 2 --hidden 32 --heads 4 --queries 84 --backbone-width 8 --depths 1 1 1 1",
        "full": "--batch 1",
        "about": "ResNet-50-vd",
        "rank": 5,
        "unordered": True,
    }
]


class RTDetr(nn.Module):
    def __init__(self, config: RTDetrConfig) -> None:
        super().__init__()
        self.detr = RTDetrForObjectDetection(config)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        found = self.detr(images)
        return found.logits, found.pred_boxes


def configuration(options: argparse.Namespace) -> RTDetrConfig:
    width = options.backbone_width
    hidden_sizes = [4 * width, 8 * width, 16 * width, 32 * width]
    backbone = RTDetrResNetConfig(
        embedding_size=width,
        hidden_sizes=hidden_sizes,
        depths=options.depths,
        out_features=["stage2", "stage3", "stage4"],
    )
    return RTDetrConfig(
        backbone_config=backbone,
        encoder_in_channels=hidden_sizes[1:],
        encoder_hidden_dim=options.hidden,
        encoder_attention_heads=options.heads,
        encoder_ffn_dim=4 * options.hidden,
        d_model=options.hidden,
        decoder_in_channels=[options.hidden] * 3,
        decoder_layers=options.layers,
        decoder_attention_heads=options.heads,
        decoder_ffn_dim=4 * options.hidden,
        num_queries=options.queries,
        num_labels=80,
    )


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--layers", type=int, default=6, help="of the decoder")
    p.add_argument("--hidden", type=int, default=256)
    p.add_argument("--heads", type=int, default=8)
    p.add_argument("--queries", type=int, default=300)
    p.add_argument("--backbone-width", type=int, default=64, help="channels of the backbone's first convolution")
    p.add_argument("--depths", type=int, nargs=4, default=[3, 4, 6, 3], help="blocks of the backbone's stages")
    p.add_argument("--size", type=int, default=640, help="height and width of the images")
    return add_arguments(p, dtype="float32")


def bridge_model(argv: list[str]) -> tuple[nn.Module, tuple, dict, None]:
    """The model and its example arguments, for `bridge compile models/rt_detr.py`."""
    options = parser().parse_args(argv)
    torch.manual_seed(options.seed)
    dtype = getattr(torch, options.dtype)
    model = RTDetr(configuration(options))
    load_weights(model.detr, options)
    images = torch.randn(options.batch, 3, options.size, options.size).to(dtype)
    return model.to(dtype).eval(), (images,), {}, None


if __name__ == "__main__":
    finish(bridge_model, parser())
