"""Layers without a bias, as DaViT's and SAM 2's, which are known by the cutting of their map alone; and others."""

import torch
from swin_layers import CASES, CHANNELS, HEADS, MAP, PROBLEM, SHIFT, SHIFTED, TOKENS, WINDOW, Layer, Plain
from torch.nn.functional import scaled_dot_product_attention


class Shifted(Layer):
    """With a mask."""

    def biased(self, logits):
        return logits


class Unbiased(Plain):
    def biased(self, logits):
        return logits


class Tokens(Unbiased):
    """Whose windows have other tokens than 4 x 4, on maps of 8 x 12."""

    def split(self, qkv):
        return qkv.reshape(*qkv.shape[:2], 3, HEADS, CHANNELS // HEADS).permute(2, 0, 3, 1, 4).unbind(0)

    def merged(self, x):
        return x.transpose(1, 2).flatten(2)


UNBIASED = {}


def case(*whats, base=Unbiased):
    """As swin_layers.case: a layer with one step replaced."""

    def add(function):
        name, step = function.__name__, function.__name__.partition("__")[0]
        UNBIASED[name] = (type(name, (base,), {step: function}), list(whats))
        return function

    return add


UNBIASED["as it is, unbiased"] = (Shifted, [SHIFTED])
UNBIASED["not shifted, unbiased"] = (Unbiased, [MAP])


@case(SHIFTED, base=Shifted)
def masked__nothing(self, logits):
    return logits


@case(SHIFTED + ", with mask", base=Shifted)
def shift_mask__of_other_tokens(self):
    return torch.where(torch.randn(6, TOKENS, TOKENS) > 0, -100.0, 0.0)


@case(base=Shifted)
def roll__by_rows(self, x):
    """A mask of windows, which are not proved to be a map's."""
    return x.roll(-SHIFT, 1)


@case(base=Shifted)
def roll_back__nothing(self, x):
    return x


@case(MAP)
def cut__then_normalised(self, x):
    return self.norm(Layer.cut(self, x))


@case()
def cut__then_added(self, x):
    windows = Layer.cut(self, x)
    return windows + self.norm(windows)


@case()
def join__rows_for_columns(self, x):
    return x.view(-1, 2, 3, WINDOW, WINDOW, CHANNELS).permute(0, 1, 4, 2, 3, 5).reshape(-1, 8, 12, CHANNELS)


@case()
def merged__with_heads_mixed(self, x):
    return x.transpose(1, 2).transpose(2, 3).reshape(-1, TOKENS, CHANNELS)


@case()
def split__keys_first(self, qkv):
    q, k, v = Plain.split(self, qkv)
    return k, q, v


@case()
def weigh__and_mean(self, logits, v):
    weights = logits.softmax(-1)
    return weights @ v + weights.mean(-1, keepdim=True)


@case(PROBLEM)
def logits__times_temperatures(self, q, k):
    """Which the op has for cosines alone."""
    return q @ k.transpose(-2, -1) * self.temperature


class WholeMap(Tokens):
    """One window, which nothing was cut for: TensorRT's attention."""

    def cut(self, x):
        return x.flatten(1, 2)

    def join(self, x):
        return x.unflatten(1, (8, 12))


class Rows(Tokens):
    """Rows lie in memory as they are: no copy is spared."""

    def cut(self, x):
        return x.flatten(0, 1)

    def join(self, x):
        return x.unflatten(0, (-1, 8))


class Columns(Tokens):
    """Of a map, as in axial attention."""

    def cut(self, x):
        return x.transpose(1, 2).flatten(0, 1)

    def join(self, x):
        return x.unflatten(0, (-1, 12)).transpose(1, 2)


UNBIASED["whole map"] = (WholeMap, [])
UNBIASED["rows"] = (Rows, [])
UNBIASED["columns"] = (Columns, ["bridge.swin_attention, heads=2, window=8x1"])
ALL = CASES | UNBIASED


class Fused(Unbiased):
    """By scaled_dot_product_attention, with what settings a test gives it."""

    def __init__(self, **settings):
        super().__init__()
        self.settings = settings

    def logits(self, q, k):
        return q, k

    def weigh(self, logits, v):
        return scaled_dot_product_attention(*logits, v, **self.settings)
