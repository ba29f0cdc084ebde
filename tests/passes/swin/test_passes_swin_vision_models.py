"""DaViT, Twins, TinyViT, GC ViT, SAM 2, Donut, CLAP and others: windows are taken with their maps, in one engine."""

import pytest
import torch
from oracle import ahead, assert_same, interpreted
from vision_models import MODELS, build

import bridge
from bridge.passes import rewrite

# Whose networks are evaluated.
NETWORKS = ["timm davit, padded", "timm twins", "timm tiny_vit", "transformers sam2", "transformers clap"]


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_windows_are_taken_with_their_maps(name):
    model, x, whats = build(name)
    expected = model(x)
    rewritten, outcomes = rewrite(torch.export.export(model, (x,)), ["swin_attention"])
    assert [outcome.what for outcome in outcomes] == whats
    torch.testing.assert_close(rewritten.module()(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_they_become_one_engine(name):
    model, x, whats = build(name)
    with interpreted():
        compiled = ahead(model, (x,), passes=["swin_attention"])
        assert_same(compiled(x), model(x), rtol=1e-3, atol=1e-3)
    assert compiled.plugin_counts()["swin_attention"] == len(whats)
    assert len(bridge.report(compiled).engines) == 1
