"""Operands that layers broadcast themselves, and models that TensorRT-RTX did not build where they were repeated."""

from importlib.util import find_spec

import pytest
import torch
from layer_interpreter import interpret
from oracle import ahead, assert_same, interpreted
from torch import nn

from bridge.engine_file import dtypes
from bridge.tensorrt.converters.layers import Layers
from bridge.tensorrt.install import flavour
from bridge.tensorrt.network import build, inventory
from bridge.tensorrt.network.broadcasts import drop_expansions

pytestmark = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")


def both(layers, x, y):
    return layers.add(layers.expand(x, (2, 3, 4)), layers.expand(y, (2, 3, 4)))


def twice(layers, x, y):
    return layers.add(x, layers.expand(layers.expand(y, (2, 1, 4)), (2, 3, 4)))


def choice(layers, x, y):
    condition = layers.elementwise("GREATER", x, layers.expand(y, (2, 3, 4)))
    return layers.output(layers.network.add_select(condition, x, layers.expand(y, (2, 3, 4))))


def choice_of_repeats(layers, x, y):
    wide = layers.expand(y, (2, 3, 4))
    condition = layers.elementwise("GREATER", y, layers.scalar_like(0.0, y))
    return layers.output(layers.network.add_select(condition, wide, layers.expand(x, (2, 3, 4))))


def normalized(layers, x, y):
    return layers.output(layers.network.add_normalization(x, *[layers.expand(y, (2, 3, 4))] * 2, 1 << 2))


def product(layers, x, y):
    return layers.matrix_multiply(layers.expand(y, (2, 3, 4)), x)


def product_of_columns(layers, x, y):
    return layers.matrix_multiply(x, layers.expand(y, (2, 4, 3)))


def reversed_too(layers, x, y):
    part = layers.network.add_slice(y, (0, 0, 3), (2, 3, 4), (0, 0, -1))
    return layers.add(x, layers.output(part))


def computed(layers, x, y):
    part = layers.network.add_slice(y, (0, 0, 0), (0, 0, 0), (0, 0, 1))
    part.set_input(2, layers.output(layers.network.add_shape(x)))
    return layers.add(x, layers.output(part))


def returned(layers, x, y):
    return layers.expand(y, (2, 3, 4))


FULL, ROW = (2, 3, 4), (1, 1, 4)


@pytest.mark.parametrize(
    ("make", "x", "y", "slices"),
    [
        (lambda layers, x, y: layers.add(x, layers.expand(y, FULL)), FULL, ROW, 0),
        (lambda layers, x, y: layers.subtract(layers.expand(y, FULL), x), FULL, ROW, 0),
        (twice, FULL, ROW, 0),
        (both, (2, 1, 4), (1, 3, 1), 0),
        (both, (2, 1, 4), (2, 1, 1), 1),  # nothing else has the middle extent
        (choice, FULL, ROW, 0),
        (choice_of_repeats, (1, 3, 4), (2, 1, 1), 0),
        (normalized, FULL, ROW, 0),
        (product, (2, 4, 5), (1, 3, 4), 0),
        (product_of_columns, FULL, (1, 4, 1), 1),  # columns are no batch
        (reversed_too, FULL, ROW, 1),
        (computed, FULL, ROW, 1),
        (returned, FULL, ROW, 1),
    ],
)
def test_only_repeats_that_the_layer_makes_itself_are_dropped(make, x, y, slices):
    found = flavour.detect()
    trt = found.trt()
    builder, network = build.create_network(found)
    given = {"x": torch.randn(x), "y": torch.randn(y)}
    inputs = [network.add_input(name, dtypes.from_torch(t.dtype).of(trt), t.shape) for name, t in given.items()]
    constants = []
    output = make(Layers(trt, network, "made", constants), *inputs)
    network.mark_output(output)
    before, shape = interpret(trt, network, given), tuple(output.shape)
    drop_expansions(trt, network)
    assert tuple(output.shape) == shape
    assert [layer["type"] for layer in inventory.layers(network, {})].count("SLICE") == slices
    assert_same(interpret(trt, network, given), before)
    assert builder is not None


class Block(nn.Module):
    """A vision transformer's block as timm writes it: one Linear for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x):
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, length, 3, self.heads, width // self.heads)
        mixed = nn.functional.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4).unbind(0))
        x = x + self.proj(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.norm2(x))


def gpt2():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=50, n_positions=16, use_cache=False)
    return transformers.GPT2Model(config), torch.randint(0, 50, (2, 7))


def swin(window, shift, x, version=""):
    swin_transformer = pytest.importorskip("torchvision.models.swin_transformer")
    return getattr(swin_transformer, f"SwinTransformerBlock{version}")(32, 2, window, shift), torch.randn(x)


def video_swin():
    video = pytest.importorskip("torchvision.models.video.swin_transformer")
    kind = video.ShiftedWindowAttention3d
    return video.SwinTransformerBlock(32, 2, [2, 4, 4], [0, 0, 0], attn_layer=kind), torch.randn(1, 2, 8, 8, 32)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(gpt2, id="gpt2"),
        pytest.param(lambda: swin([7, 7], [0, 0], (1, 14, 14, 32)), id="swin"),
        pytest.param(lambda: swin([4, 4], [2, 2], (1, 8, 8, 32)), id="shifted swin"),
        pytest.param(lambda: swin([4, 4], [0, 0], (1, 8, 8, 32), "V2"), id="swin v2"),
        pytest.param(video_swin, id="video swin"),
        pytest.param(lambda: (Block(32, 2), torch.randn(2, 17, 32)), id="vit"),
    ],
)
def test_transformers_with_fixed_shapes_build_and_are_right(make):
    model, x = make()
    model.eval()
    with interpreted(engines=True):
        assert_same(ahead(model, (x,))(x), model(x), rtol=1e-4, atol=1e-5)


class ClassToken(nn.Module):
    """A token of weights before those of each image, as vision transformers have it."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(4))

    def forward(self, x):
        return torch.cat((self.token.expand(x.shape[0], 1, -1), x), 1)


def test_weights_are_expanded_to_a_dynamic_batch():
    model, x = ClassToken().eval(), torch.randn(2, 3, 4)
    shapes = {"x": {0: torch.export.Dim("batch", min=2, max=8)}}
    with interpreted(engines=True):
        compiled = ahead(model, (x,), shapes)
        for batch in (2, 5):
            images = torch.randn(batch, 3, 4)
            assert_same(compiled(images), model(images))


class Empty(nn.Module):
    """No images beside weights of another rank, which torch_tensorrt repeats, and what has elements."""

    def forward(self, x):
        return x * torch.ones(8, 4), x > torch.zeros(4), nn.functional.adaptive_avg_pool1d(x, 3), x.sum(0).sigmoid()


def test_empty_operands_of_another_rank():
    model, x = Empty().eval(), torch.randn(0, 8, 4)
    with interpreted(engines=True):
        assert_same(ahead(model, (x,))(x), model(x))
