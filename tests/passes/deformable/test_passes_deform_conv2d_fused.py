"""The pass deform_conv2d_fused: convolutions as torchvision's users, mmcv and others write them, and what follows."""

import copy

import oracle
import pytest
import torch
from deformable_layers import (
    ALL,
    GROUPS,
    OFFSETS,
    OP,
    PLAIN,
    PLANE,
    TAPS,
    Layer,
    calls,
    check,
    norm,
    rewritten,
    split,
    x_of,
)
from torch import nn
from torch.export import export

import bridge
from bridge.passes import rewrite
from bridge.testing import DTYPES


def chunked(prediction):
    """mmcv's and mmdet's."""
    first, second, mask = torch.chunk(prediction, 3, dim=1)
    return torch.cat((first, second), dim=1), torch.sigmoid(mask)


def sliced(prediction):
    return prediction[:, :OFFSETS], torch.sigmoid(prediction[:, OFFSETS:])


def from_the_end(prediction):
    return prediction[:, : -GROUPS * TAPS].contiguous(), prediction[:, -GROUPS * TAPS :, :, :].sigmoid().contiguous()


def narrowed(prediction):
    logits = prediction.narrow(1, OFFSETS, ALL - OFFSETS)
    return prediction.narrow(1, 0, OFFSETS).clone(), logits.sigmoid()


def all_by_sigmoid(prediction):
    return prediction[:, :OFFSETS], prediction.sigmoid()[:, OFFSETS:]


def in_parts(prediction):
    parts = prediction.tensor_split(6, 1)
    return torch.cat(parts[:4], 1), torch.cat((parts[4].sigmoid(), torch.cat(parts[5:], 1).sigmoid()), 1)


def in_place(prediction):
    offset, mask = prediction.split([OFFSETS, ALL - OFFSETS], dim=1)
    return offset, mask.clone().sigmoid_()


WRITTEN = (chunked, split, sliced, from_the_end, narrowed, all_by_sigmoid, in_parts, in_place)


@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize("by", ["bridge", "torchvision"])
@pytest.mark.parametrize("cut", WRITTEN)
def test_offsets_and_logits_of_one_tensor(cut, by, decomposed):
    if by == "torchvision":
        pytest.importorskip("torchvision", reason="needs torchvision")
    program = check(Layer(cut, by=by), "modulated, activation none", decomposed=decomposed)
    assert not [node for node in program.graph.nodes if node.target in (torch.ops.aten.cat.default, PLAIN)]


FOLLOWED = [
    ("ReLU", [nn.ReLU()], "activation relu"),
    ("ReLU in place", [nn.ReLU(inplace=True)], "activation relu"),
    ("leaky ReLU", [nn.LeakyReLU(0.1)], "activation leaky_relu"),
    ("BatchNorm", [norm()], "BatchNorm folded, activation none"),
    ("BatchNorm and ReLU", [norm(), nn.ReLU()], "BatchNorm folded, activation relu"),
    ("BatchNorm and ReLU in place", [norm(), nn.ReLU(inplace=True)], "BatchNorm folded, activation relu"),
    ("BatchNorm without weights", [norm(affine=False), nn.ReLU()], "BatchNorm folded, activation relu"),
    ("large eps", [norm(eps=0.5), nn.LeakyReLU(0.2)], "BatchNorm folded, activation leaky_relu"),
    ("a second ReLU", [norm(), nn.ReLU(), nn.ReLU()], "BatchNorm folded, activation relu"),
    ("another activation", [norm(), nn.GELU()], "BatchNorm folded, activation none"),
    ("ReLU before BatchNorm", [nn.ReLU(), norm()], "activation relu"),
]
each_followed = pytest.mark.parametrize(("after", "text"), [pytest.param(*rest, id=label) for label, *rest in FOLLOWED])


@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@each_followed
def test_what_follows(after, text, bias, decomposed):
    model = Layer(split, copy.deepcopy(after), bias=bias)
    check(model, f"modulated, {text}", decomposed=decomposed)


@each_followed
def test_what_follows_a_convolution_without_a_mask(after, text):
    check(Layer(lambda offset: (offset, None), copy.deepcopy(after), OFFSETS), f"not modulated, {text}")


def test_a_convolution_without_a_mask_and_followed_by_nothing_stays():
    program, outcomes = rewritten(Layer(lambda offset: (offset, None), [nn.GELU()], OFFSETS))
    assert not outcomes and calls(program, PLAIN)


def test_weights_are_folded_in_float32_and_rounded_once():
    model = Layer(split, [norm()]).half()
    program, _ = rewrite(export(model, (x_of(dtype=torch.half),)), ["deform_conv2d_fused"])
    folded, batch_norm = {}, model.after[0].float()

    def keep(target, args, kwargs):
        folded.update(zip(("weight", "bias"), args[2:4], strict=True))
        return target(*args, **kwargs)

    class Keeping(torch.fx.Interpreter):
        def call_function(self, target, args, kwargs):
            return keep(target, args, kwargs) if target is OP else target(*args, **kwargs)

    inputs = [*program.parameters(), *program.buffers(), x_of(dtype=torch.half)]
    Keeping(program.graph_module).run(*inputs)
    scale = batch_norm.weight / (batch_norm.running_var + batch_norm.eps).sqrt()
    weight = model.weight.float() * scale[:, None, None, None]
    bias = (model.bias.float() - batch_norm.running_mean) * scale + batch_norm.bias
    for name, exact in (("weight", weight), ("bias", bias)):
        assert folded[name].dtype == torch.half
        rounding = (exact.abs() * 2**-11 * 1.001).clamp(min=2**-25)  # of float16, whose smallest step is 2^-24
        assert ((folded[name].float() - exact).abs() <= rounding).all()


# Engines


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("cut", "channels"), [(chunked, ALL), (lambda offset: (offset, None), OFFSETS)])
def test_an_engine_holds_folded_constants(cut, channels, dtype):
    pytest.importorskip("torch_tensorrt", reason="needs torch_tensorrt")
    model, x = Layer(cut, [norm(), nn.ReLU(inplace=True)], channels).to(dtype), x_of(dtype=dtype)
    with oracle.interpreted(engines=True):
        compiled = oracle.ahead(model, (x,), ({0: PLANE[0]},))
        found = compiled(x)
    expected = model.float()(x.float())
    largest = expected.abs().max().item()
    torch.testing.assert_close(
        found.float(), expected, rtol=0, atol=(64 if dtype == torch.float32 else 8) * torch.finfo(dtype).eps * largest
    )
    assert bridge.report(compiled).plugin_counts() == {"deform_conv2d_fused": 1}
    assert b"weight=" in compiled.engine  # which a plugin lays out once
