"""A layer of Swin, and layers that differ from it in one step, with what the pass says of each."""

import torch
from torch import nn
from torch.nn.functional import layer_norm, normalize

HEADS, WINDOW, SHIFT, CHANNELS = 2, 4, 2, 16
TOKENS = WINDOW**2
TAKEN = "bridge.swin_attention, heads=2"
MAP = TAKEN + ", window=4x4"
SHIFTED = MAP + ", shift=2x2"


class Layer(nn.Module):
    """A shifted layer of Swin on maps [N, 8, 12, 16], in steps that tests replace."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.proj = nn.Linear(CHANNELS, 3 * CHANNELS), nn.Linear(CHANNELS, CHANNELS)
        self.norm = nn.LayerNorm(CHANNELS)
        self.bias = nn.Parameter(2 * torch.randn(HEADS, TOKENS, TOKENS))
        self.temperature = nn.Parameter(torch.rand(HEADS, 1, 1) * 9)
        self.register_buffer("mask", self.shift_mask())

    def shift_mask(self):
        y, x = torch.arange(8) >= 8 - SHIFT, torch.arange(12) >= 12 - SHIFT
        side = Layer.cut(self, (y[:, None] + 2 * x)[None, :, :, None])[..., 0]
        return torch.where(side[:, :, None] != side[:, None, :], -100.0, 0.0)

    def cut(self, x):
        n, h, w, c = x.shape
        return x.view(n, h // WINDOW, WINDOW, w // WINDOW, WINDOW, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, TOKENS, c)

    def join(self, x):
        return x.view(-1, 2, 3, WINDOW, WINDOW, CHANNELS).permute(0, 1, 3, 2, 4, 5).reshape(-1, 8, 12, CHANNELS)

    def roll(self, x):
        return x.roll((-SHIFT, -SHIFT), (1, 2))

    def roll_back(self, x):
        return x.roll((SHIFT, SHIFT), (1, 2))

    def split(self, qkv):
        return qkv.reshape(-1, TOKENS, 3, HEADS, CHANNELS // HEADS).permute(2, 0, 3, 1, 4).unbind(0)

    def logits(self, q, k):
        return (q * 0.35) @ k.transpose(-2, -1)

    def biased(self, logits):
        return logits + self.bias.unsqueeze(0)

    def masked(self, logits):
        windows = logits.view(-1, 6, HEADS, TOKENS, TOKENS)
        return (windows + self.mask[None, :, None]).view(-1, HEADS, TOKENS, TOKENS)

    def weigh(self, logits, v):
        return logits.softmax(-1) @ v

    def merged(self, x):
        return x.transpose(1, 2).reshape(-1, TOKENS, CHANNELS)

    def forward(self, x):
        q, k, v = self.split(self.qkv(self.cut(self.roll(x))))
        out = self.weigh(self.masked(self.biased(self.logits(q, k))), v)
        return self.roll_back(self.join(self.proj(self.merged(out))))


class Plain(Layer):
    """Not shifted."""

    def roll(self, x):
        return x

    def roll_back(self, x):
        return x

    def masked(self, logits):
        return logits


CASES = {}


def case(*whats, base=Layer):
    """A layer with one step replaced: the function's. whats: what the pass says of it."""

    def add(function):
        name, step = function.__name__, function.__name__.partition("__")[0]
        CASES[name] = (type(name, (base,), {step: function}), list(whats))
        return function

    return add


CASES["as it is"] = (Layer, [SHIFTED])
CASES["not shifted"] = (Plain, [MAP])


@case(SHIFTED)
def masked__not_at_all(self, logits):
    """A shift without a mask: tokens on different sides of the end see each other."""
    return logits


@case(SHIFTED + ", with mask")
def shift_mask__of_others(self):
    """Not the tokens on different sides."""
    return torch.where(torch.randn(6, TOKENS, TOKENS) > 0, -100.0, 0.0)


@case(SHIFTED)
def shift_mask__of_another_number(self):
    return Layer.shift_mask(self) * 0.02


@case(SHIFTED + ", with mask")
def shift_mask__of_several_numbers(self):
    return Layer.shift_mask(self) * torch.linspace(0.01, 0.02, 6)[:, None, None]


@case(TAKEN + ", with mask")
def roll__of_rows_alone(self, x):
    return x.roll(-SHIFT, 1)


@case(TAKEN + ", with mask")
def roll_back__by_less(self, x):
    return x.roll((SHIFT, SHIFT - 1), (1, 2))


@case(TAKEN + ", with mask")
def roll_back__not(self, x):
    return x


@case(TAKEN + ", with mask")
def roll__the_other_way(self, x):
    return x.roll((SHIFT, SHIFT), (1, 2))


@case(TAKEN + ", with mask")
def roll__by_more_than_a_window(self, x):
    return x.roll((-WINDOW - 1, -SHIFT), (1, 2))


@case(TAKEN, base=Plain)
def join__with_rows_for_columns(self, x):
    return x.view(-1, 2, 3, WINDOW, WINDOW, CHANNELS).permute(0, 1, 4, 2, 3, 5).reshape(-1, 8, 12, CHANNELS)


@case(TAKEN, base=Plain)
def join__of_other_windows(self, x):
    return x.view(-1, 3, 2, WINDOW, WINDOW, CHANNELS).permute(0, 2, 3, 1, 4, 5).reshape(-1, 8, 12, CHANNELS)


@case(TAKEN, base=Plain)
def cut__in_columns_first(self, x):
    n, h, w, c = x.shape
    return x.view(n, h // WINDOW, WINDOW, w // WINDOW, WINDOW, c).permute(0, 3, 1, 2, 4, 5).reshape(-1, TOKENS, c)


@case(MAP, base=Plain)
def cut__and_normalised(self, x):
    """As TinyViT's: each token for itself."""
    return self.norm(Layer.cut(self, x))


@case(TAKEN, base=Plain)
def cut__and_normalised_by_windows(self, x):
    return layer_norm(Layer.cut(self, x), (TOKENS, CHANNELS))


@case(TAKEN, base=Plain)
def cut__and_added(self, x):
    """As torchvision's MaxViT: more than projections and norms lies between the cut and the attention."""
    windows = Layer.cut(self, x)
    return windows + self.norm(windows)


@case(TAKEN, base=Plain)
def merged__and_used_twice(self, x):
    out = Layer.merged(self, x)
    return out + out.relu()


@case("its queries, keys and values are not views of windows with channels last", base=Plain)
def split__with_keys_first(self, qkv):
    q, k, v = Layer.split(self, qkv)
    return k, q, v


@case("its queries, keys and values are not views of windows with channels last", base=Plain)
def split__with_values_of_other_tokens(self, qkv):
    q, k, v = Layer.split(self, qkv)
    return q, k, v.unflatten(2, (WINDOW, WINDOW)).transpose(2, 3).flatten(2, 3)


@case("its queries, keys and values are not views of windows with channels last", base=Plain)
def split__of_strided_heads(self, qkv):
    return qkv.reshape(-1, TOKENS, 3, CHANNELS // HEADS, HEADS).permute(2, 0, 4, 1, 3).unbind(0)


@case(MAP + ", of cosines", base=Plain)
def logits__of_cosines(self, q, k):
    return normalize(q, dim=-1) @ normalize(k, dim=-1).transpose(-2, -1) * self.temperature


@case(MAP, base=Plain)
def logits__of_copied_keys(self, q, k):
    """As GC ViT's."""
    return (q * 0.35) @ k.transpose(-2, -1).contiguous()


PROBLEM = "its logits are multiplied by a tensor, and are not of queries and keys divided by their lengths"


@case(PROBLEM, base=Plain)
def logits__of_cosines_with_another_least_length(self, q, k):
    return normalize(q, dim=-1, eps=0.1) @ normalize(k, dim=-1, eps=0.1).transpose(-2, -1) * self.temperature


@case(PROBLEM, base=Plain)
def logits__of_cosines_along_tokens(self, q, k):
    return normalize(q, dim=-2) @ normalize(k, dim=-2).transpose(-2, -1) * self.temperature


@case(PROBLEM, base=Plain)
def logits__of_another_norm(self, q, k):
    return normalize(q, p=1, dim=-1) @ normalize(k, p=1, dim=-1).transpose(-2, -1) * self.temperature


@case(PROBLEM, base=Plain)
def logits__times_a_tensor(self, q, k):
    return q @ k.transpose(-2, -1) * self.temperature


@case("its cosines are multiplied by something else than a number for each head", base=Plain)
def logits__of_cosines_times_rows(self, q, k):
    return normalize(q, dim=-1) @ normalize(k, dim=-1).transpose(-2, -1) * self.bias[..., :1]


@case(base=Plain)
def biased__and_then_scaled(self, logits):
    return (logits + self.bias) * 0.5


ADDED = "what is added to its logits is neither a bias for each head nor a mask for each window"


@case(ADDED, base=Plain)
def biased__by_keys(self, logits):
    """One number a head and key, as ALiBi's."""
    return logits + self.bias[:, :1]


@case(MAP, base=Plain)
def biased__twice(self, logits):
    return logits + self.bias + 0.5 * self.bias


@case(MAP, base=Plain)
def biased__by_a_subtracted_sum(self, logits):
    return -1.0 * self.bias + logits


@case(base=Plain)
def biased__by_less(self, logits):
    return torch.sub(logits, self.bias)


@case("beside a bias for each head something is added that is not the same for all heads of a window")
def masked__by_heads(self, logits):
    mask = torch.stack((self.mask, 0.5 * self.mask), 1)
    return (logits.view(-1, 6, HEADS, TOKENS, TOKENS) + mask).view(-1, HEADS, TOKENS, TOKENS)


@case("beside a bias for each head something is added that is not the same for all heads of a window")
def masked__of_images(self, logits):
    """A mask of the outer part of the windows: of an image, and not of a window."""
    return (logits.view(-1, 6, HEADS, TOKENS, TOKENS) + logits.view(-1, 6, HEADS, TOKENS, TOKENS)[:, :1, :1]).view(
        -1, HEADS, TOKENS, TOKENS
    )


@case(base=Plain)
def weigh__along_queries(self, logits, v):
    return logits.softmax(-2) @ v


@case(base=Plain)
def weigh__and_more(self, logits, v):
    weights = logits.softmax(-1)
    return weights @ v + weights.mean(-1, keepdim=True)
