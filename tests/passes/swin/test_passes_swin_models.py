"""Swin, Swin-v2 and MaxViT of torchvision, timm and transformers: each attention is a plugin, and no map is cut."""

import pytest
import torch
from oracle import ahead, assert_same, interpreted
from swin_models import MODELS, build, is_bias, torchvision_swin
from torch.export import Dim

import bridge
from bridge.passes import rewrite

aten = torch.ops.aten
ATTENTION = {aten.softmax.int, aten.scaled_dot_product_attention.default}
# Those whose windows stay: torchvision's MaxViT computes all of a layer on windows.
CUT = {"torchvision maxvit"}


def exported(model, x):
    return torch.export.export(model, (x,), dynamic_shapes=({0: Dim("batch", min=1, max=8)},))


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_attention_of_every_layer_is_the_op(name):
    """As eager at two batch sizes, which says that masks, shifts and biases are those of the model."""
    model, x, whats = build(name)
    rewritten, outcomes = rewrite(exported(model, x), ["swin_attention"])
    assert [outcome.what for outcome in outcomes] == whats
    assert not any(node.target in ATTENTION for node in rewritten.graph.nodes)
    if name not in CUT:
        assert not any(node.target is aten.permute.default and _is_cut(node) for node in rewritten.graph.nodes)
    for given in (x, torch.cat((x, x.flip(-1), 2 * x))):
        torch.testing.assert_close(rewritten.module()(given), model(given), rtol=1e-4, atol=1e-4)


def _is_cut(node):
    """Of a map into windows: six dimensions or more."""
    return node.meta["val"].dim() > 5


@torch.no_grad()
def test_heights_and_widths_may_be_open():
    """As multiples of a window, whose mask the model computes from them."""
    model, _, whats = build("torchvision")
    height, width = (28 * Dim(name, min=2, max=8) for name in ("rows", "columns"))
    shapes = ({0: Dim("batch", min=1, max=8), 2: height, 3: width},)
    program = torch.export.export(model, (torch.randn(2, 3, 56, 84),), dynamic_shapes=shapes)
    rewritten, outcomes = rewrite(program, ["swin_attention"])
    assert [outcome.what for outcome in outcomes] == [whats[0], whats[1] + ", with mask"]
    for size in ((56, 84), (112, 56), (28 * 3, 28 * 5)):
        x = torch.randn(3, 3, *size)
        torch.testing.assert_close(rewritten.module()(x), model(x), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_other_heights_stay_with_the_reason():
    """Torch's extents do not say that a padded map has whole windows."""
    model, _, _ = build("torchvision")
    program = torch.export.export(model, (torch.randn(2, 3, 56, 84),), dynamic_shapes=({2: Dim.AUTO},))
    _, outcomes = rewrite(program, ["swin_attention"])
    assert len(outcomes) == 2 and not any(outcome.replaced for outcome in outcomes)
    assert all("a bias of 49 tokens is added, but torch does not know" in outcome.what for outcome in outcomes)


@pytest.mark.parametrize("name", ["torchvision", "torchvision v2", "timm maxvit, heads first", "transformers, padded"])
@torch.no_grad()
def test_models_become_engines(name):
    model, x, whats = build(name)
    with interpreted(engines=True):
        compiled = ahead(model, (x,), ({0: Dim("batch", min=1, max=8)},), passes=["swin_attention"])
        for given in (x, torch.cat((x, x.flip(-1)))):
            assert_same(compiled(given), model(given), rtol=1e-3, atol=1e-3)
    assert compiled.plugin_counts() == {"swin_attention": len(whats)}
    assert len(bridge.report(compiled).engines) == 1


@pytest.mark.parametrize(
    ("dtype", "width", "taken"), [("float32", 32, False), ("float16", 32, True), ("bfloat16", 12, False)]
)
@torch.no_grad()
def test_what_tensor_cores_do_not_take_stays_by_default(dtype, width, taken):
    """Unless the setting names the pass."""
    model = torchvision_swin(channels=2 * width).to(getattr(torch, dtype)).eval()
    x = torch.randn(2, 3, 56, 56, dtype=getattr(torch, dtype))
    program = exported(model, x)
    assert all(outcome.replaced for outcome in rewrite(program, ["swin_attention"])[1])
    _, outcomes = rewrite(program, ["swin_attention"], by_default=True)
    assert [outcome.replaced for outcome in outcomes] == [taken] * 2
    reason = (
        f"in torch.{dtype} with heads {width} wide TensorRT's own layers are faster; passes=['swin_attention', ...]"
    )
    assert taken or all(reason in outcome.what for outcome in outcomes)


@torch.no_grad()
def test_a_setting_that_names_the_pass_takes_what_stays_by_default():
    model = torchvision_swin().eval()
    with interpreted():
        for named, counts in ((True, {}), (["swin_attention"], {"swin_attention": 2})):
            assert ahead(model, (torch.randn(2, 3, 56, 56),), passes=named).plugin_counts() == counts


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_a_bias_shows_in_the_results(name):
    """Beyond the tolerance of these tests: a bias that was lost would be seen."""
    model, x, _ = build(name)
    expected = model(x)
    tables = [weight for key, weight in model.named_parameters() if is_bias(key)]
    assert tables
    for table in tables:
        table.zero_()
    assert (model(x) - expected).abs().max() > 2e-3


@pytest.mark.gpu(engines=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_engines_are_right(name, dtype):
    model, x, whats = build(name)
    expected = model(x)
    model, x = model.to("cuda", dtype), x.to("cuda", dtype)
    compiled = bridge.compile(model, (x,), dynamic_shapes=({0: Dim("batch", min=1, max=8)},))
    assert compiled.plugin_counts() == {"swin_attention": len(whats)}
    limit = 1e-3 if dtype == torch.float32 else 5e-2
    assert (compiled(x).float().cpu() - expected).abs().max() < limit * expected.abs().max()
