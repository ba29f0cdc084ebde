"""transformers' RT-DETR: images [B, 3, H, W] to class logits [B, queries, 80] and boxes [B, queries, 4].

    python models/rt_detr.py --target sm86 --size 320 -o rt_detr.engine

The model is transformers' own; the pass "ms_deform_attn" finds the attention of every layer of the decoder. Shapes are
fixed, the batch too, which the model's code takes for a number. The decoder starts from the best positions of the
encoder: where two score alike, rounding decides which comes first, and in 16 bits which comes at all: hence float32.
Default: the sizes of RT-DETR with ResNet-50.
"""

import argparse
import re

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


_BOXES = re.compile(r".*\.(enc_bbox_head|bbox_embed\.\d+)\.layers\.2")


class RTDetr(nn.Module):
    """Returns logits and boxes. Its random weights are of the sizes that training leaves.

    transformers begins with weights for training, with which an image's signal vanishes in the backbone, so that all
    positions score alike and their order is arbitrary, and with which offsets and boxes are constant.
    """

    def __init__(self, config: RTDetrConfig) -> None:
        super().__init__()
        self.detr = RTDetrForObjectDetection(config)

    @torch.no_grad()
    def settle(self, images: Tensor) -> None:
        """Replaces weights, and statistics of normalisation by those of images [B, 3, H, W]."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                scale = 1 if isinstance(module, nn.Conv2d) else 0.1 if _BOXES.fullmatch(name) else 0.5
                nn.init.normal_(module.weight, std=scale * module.weight[0].numel() ** -0.5)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)
            elif name.endswith(".layer.2.normalization"):  # a block adds a part of what passes by it
                module.weight.mul_(0.3)
        norms = [module for module in self.modules() if getattr(module, "running_var", None) is not None]
        hooks = [norm.register_forward_pre_hook(_measure_statistics) for norm in norms]
        self(images)
        for hook in hooks:
            hook.remove()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        found = self.detr(images)
        return found.logits, found.pred_boxes


def _measure_statistics(norm: nn.Module, args: tuple[Tensor]) -> None:
    """The statistics of what a normalisation is given, [B, C, H, W]."""
    variance, mean = torch.var_mean(args[0], dim=(0, 2, 3), correction=0)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)


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
    model = RTDetr(configuration(options)).eval()
    images = torch.randn(options.batch, 3, options.size, options.size)
    if options.weights:
        load_weights(model.detr, options)
    else:
        model.settle(images)
    return model.to(dtype), (images.to(dtype),), {}, None


if __name__ == "__main__":
    finish(bridge_model, parser())
