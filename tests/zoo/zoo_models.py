"""The zoo of models/, what the tests know of it, and scripts of their own."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from bridge.zoo import entries

MODELS = Path(__file__).parents[2] / "models"
ZOO = entries.find(MODELS)
# Plugin layers of the small configurations, whose engines are built for a GPU that is not here.
PLUGINS = {
    "llama": {"rope": 2},
    "qwen3": {"rope": 2},
    "mistral": {"rope": 2},
    "gpt_neox": {"rope": 2},
    "deformable_detr": {"ms_deform_attn_fused": 3},
    "rt_detr": {"ms_deform_attn_fused": 2},
    "mask_rcnn, rpn": {},
    "mask_rcnn, heads": {"roi_align": 8},
    "resnet_dcn": {"deform_conv2d_fused": 13},
    "resnet_dcn, fixed batch": {"deform_conv2d_fused": 13},
    "basicvsr": {"deform_conv2d": 1},
    "basicvsr, fixed size": {"deform_conv2d": 1},
    "swin": {"swin_attention": 4},
    "relu_net": {"relu": 3},
    "mistral, window": {"rope": 2, "window_attention": 2},
    "gemma3": {"rope": 2, "window_attention": 2},
    "modernbert": {"rope": 3, "window_attention": 2},
    "swin, v2": {"swin_attention": 4},
}
WITH_WEIGHTS = ("llama", "qwen3", "deformable_detr", "mask_rcnn, heads")  # every way in which scripts load them
needs_models = pytest.mark.skipif(
    not all(map(find_spec, ("torch_tensorrt", "torchvision", "transformers"))),
    reason="needs torch_tensorrt, torchvision and transformers",
)
each = pytest.mark.parametrize("entry", ZOO, ids=lambda entry: entry.name)


def script(folder, name, text):
    (folder / f"{name}.py").write_text(text)
