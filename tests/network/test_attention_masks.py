"""Attention layers whose mask hides every key from a query, as padding before a sequence does, give PyTorch's zeros."""

from collections import Counter
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from oracle import ahead, assert_same, interpreted
from torch import nn
from torch.export import Dim

import bridge

pytestmark = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")
BATCH, LENGTH = Dim("batch", min=1, max=4), Dim("length", min=1, max=64)
SHAPES = {"x": {0: BATCH, 2: LENGTH}, "real": {0: BATCH, 1: LENGTH}}


class Padded(nn.Module):
    """Two layers of causal attention; real [B, S]: which tokens are no padding."""

    def forward(self, x, real):
        position = torch.arange(x.shape[2], device=x.device)
        mask = (position <= position[:, None]) & real[:, None, None, :]
        x = F.scaled_dot_product_attention(x, x, x, attn_mask=mask)
        return F.scaled_dot_product_attention(x, x, x, attn_mask=mask)


def padded(batch, length, padding):
    real = torch.ones(batch, length, dtype=torch.bool)
    real[-1, :padding] = False
    return torch.randn(batch, 2, length, 8, generator=torch.Generator().manual_seed(length)), real


@pytest.mark.parametrize("dynamic", [False, True])
def test_padding_before_a_sequence(dynamic):
    """TensorRT's softmax of hidden logits alone is NaN, which would reach every token in the second layer."""
    model = Padded().eval()
    with interpreted(engines=True):
        compiled = ahead(model, padded(2, 9, 4), SHAPES if dynamic else None)
        assert Counter(layer["type"] for layer in compiled.layers)["ATTENTION_INPUT"] == 2
        for given in [padded(2, 9, 4), *([padded(3, 17, 17), padded(1, 5, 1)] if dynamic else [])]:
            assert_same(compiled(*given), model(*given), rtol=1e-4, atol=1e-5)
            assert compiled(*given)[-1, :, 0].eq(0).all()


class Held(nn.Module):
    """A mask that the model holds, perhaps of float32."""

    def __init__(self, mask):
        super().__init__()
        self.mask = nn.Buffer(mask)

    def forward(self, x):
        return F.scaled_dot_product_attention(x, x, x, attn_mask=self.mask)


def held(*hidden):
    mask = torch.ones(1, 1, 9, 9, dtype=torch.bool)
    mask[..., list(hidden), :] = False
    mask[..., ::2] = False
    return mask


@pytest.mark.parametrize(("mask", "choices"), [(held(3, 5), 1), (held(), 0), (held().float(), 0)])
def test_only_a_mask_that_hides_all_keys_has_its_results_replaced(mask, choices):
    model, (x, _) = Held(mask).eval(), padded(2, 9, 0)
    with interpreted():
        compiled = ahead(model, (x,))
        assert_same(compiled(x), model(x), rtol=1e-4, atol=1e-5)
    types = Counter(layer["type"] for layer in compiled.layers)
    assert types["ATTENTION_INPUT"] == 1 and types["SELECT"] == choices


@pytest.mark.gpu(engines=True)
@torch.no_grad()
def test_padding_before_a_sequence_in_an_engine(device):
    """Against PyTorch on the CPU: on a GPU its kernels give zeros or NaN for a query that sees no key."""
    model = Padded().eval()
    x, real = padded(2, 9, 4)
    compiled = bridge.compile(model, (x.half().to(device), real.to(device)), dynamic_shapes=SHAPES)
    for given in [(x, real), padded(3, 17, 17)]:
        actual = compiled(given[0].half().to(device), given[1].to(device)).float().cpu()
        torch.testing.assert_close(actual, model(*given), rtol=1e-2, atol=1e-2)
