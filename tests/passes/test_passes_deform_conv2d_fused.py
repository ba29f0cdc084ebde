"""The pass deform_conv2d_fused: convolutions as torchvision's users, mmcv and others write them, and near misses."""

import copy

import oracle
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim, export

import bridge
from bridge.core.op import OPS
from bridge.passes import rewrite
from bridge.testing import DTYPES

OP, PLAIN = OPS["deform_conv2d_fused"].overload, OPS["deform_conv2d"].overload
CHANNELS, OUT, GROUPS, TAPS = 8, 12, 2, 9
OFFSETS, ALL = 2 * GROUPS * TAPS, 3 * GROUPS * TAPS


def chunked(prediction):
    """mmcv's and mmdet's."""
    first, second, mask = torch.chunk(prediction, 3, dim=1)
    return torch.cat((first, second), dim=1), torch.sigmoid(mask)


def split(prediction):
    offset, mask = prediction.split([OFFSETS, ALL - OFFSETS], dim=1)
    return offset, mask.sigmoid()


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


class Layer(nn.Module):
    """A convolution of its own predictions, and what follows it."""

    def __init__(self, cut, after=(), channels=ALL, bias=True, by="bridge"):
        super().__init__()
        torch.manual_seed(0)
        self.cut, self.by = cut, by
        self.predict = nn.Conv2d(CHANNELS, channels, 3, padding=1)
        self.weight = nn.Parameter(torch.randn(OUT, CHANNELS, 3, 3) * 0.2)
        self.bias = nn.Parameter(torch.randn(OUT)) if bias else None
        self.after = nn.Sequential(*after)
        for norm in (module for module in self.modules() if isinstance(module, nn.BatchNorm2d)):
            for tensor in (*norm.parameters(), *norm.buffers()):
                tensor.data = torch.rand_like(tensor) + 0.5 if tensor.is_floating_point() else tensor
        self.eval()

    def convolve(self, x):
        offset, mask = self.cut(self.predict(x))
        if self.by == "bridge":
            return bridge.deform_conv2d(x, offset, self.weight, self.bias, mask, padding=1)
        from torchvision.ops import deform_conv2d

        return deform_conv2d(x, offset, self.weight, self.bias, padding=1, mask=mask)

    def forward(self, x):
        return self.after(self.convolve(x))


def norm(**options):
    return nn.BatchNorm2d(OUT, **options)


def x_of(batch=2, height=7, width=9, dtype=torch.float32):
    return torch.randn(batch, CHANNELS, height, width, generator=torch.Generator().manual_seed(batch)).to(dtype)


PLANE = {0: Dim("batch", min=1, max=16), 2: Dim("height", min=3, max=64), 3: Dim("width", min=3, max=64)}


def rewritten(model, decomposed=False):
    program = export(model, (x_of(),), dynamic_shapes=(PLANE,))
    return rewrite(program.run_decompositions() if decomposed else program, ["deform_conv2d_fused"])


def calls(program, target=OP):
    return program.graph.find_nodes(op="call_function", target=target)


def check(model, what, *, decomposed=False):
    """It is replaced, with such a text, and computes the same at other extents."""
    program, outcomes = rewritten(model, decomposed)
    assert [(outcome.replaced, outcome.what) for outcome in outcomes] == [(True, f"bridge.deform_conv2d_fused, {what}")]
    assert len(calls(program)) == 1 and not [node for node in program.graph.nodes if "sigmoid" in str(node.target)]
    x = x_of(3, 12, 5)
    torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-4)
    return program


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
        assert ((folded[name].float() - exact).abs() <= exact.abs() * 2**-11 * 1.001).all()


# What is nearly that, and stays

SIGMOIDS = {
    "twice the sigmoid": lambda p: (p[:, :OFFSETS], 2 * p[:, OFFSETS:].sigmoid()),
    "no sigmoid": lambda p: (p[:, :OFFSETS], p[:, OFFSETS:]),
    "the sigmoid of a part": lambda p: (
        p[:, :OFFSETS],
        torch.cat((p[:, OFFSETS : OFFSETS + 9].sigmoid(), p[:, OFFSETS + 9 :]), 1),
    ),
    "hard sigmoid": lambda p: (p[:, :OFFSETS], F.hardsigmoid(p[:, OFFSETS:])),
    "the sigmoid of a sigmoid": lambda p: (p[:, :OFFSETS], p[:, OFFSETS:].sigmoid().sigmoid()),
    "another dtype between": lambda p: (p[:, :OFFSETS], p[:, OFFSETS:].double().sigmoid().float()),
    "softmax": lambda p: (p[:, :OFFSETS], p[:, OFFSETS:].softmax(1)),
}
TENSORS = {
    # BasicVSR++
    "offsets by tanh": lambda p: (10 * torch.tanh(torch.cat(p.chunk(3, 1)[:2], 1)), p.chunk(3, 1)[2].sigmoid()),
    "a flow added": lambda p: (p[:, :OFFSETS] + p.mean(), p[:, OFFSETS:].sigmoid()),
    "every other channel": lambda p: (
        torch.cat((p[:, 0:OFFSETS:2], p[:, 1:OFFSETS:2]), 1),
        p[:, OFFSETS:].sigmoid(),
    ),
    "logits of another tensor": lambda p: (p[:, :OFFSETS], (p + 1)[:, OFFSETS:].sigmoid()),
    "offsets by sigmoid of another tensor": lambda p: ((p + 1)[:, :OFFSETS].sigmoid(), p[:, OFFSETS:].sigmoid()),
}
ORDERS = {
    "the mask first": lambda p: (p[:, ALL - OFFSETS :], p[:, : ALL - OFFSETS].sigmoid()),
    "parts of the offsets changed": lambda p: (torch.cat(p.chunk(3, 1)[1::-1], 1), p.chunk(3, 1)[2].sigmoid()),
    "channels used twice": lambda p: (p[:, :OFFSETS], p[:, : ALL - OFFSETS].sigmoid()),
    "sigmoid of the offsets": lambda p: (p[:, :OFFSETS].sigmoid(), p[:, OFFSETS:].sigmoid()),
}  # fmt: skip
NEAR = [
    *((label, cut, "its mask is not the sigmoid of a tensor's channels") for label, cut in SIGMOIDS.items()),
    *((label, cut, "offsets and mask are not the channels of one tensor") for label, cut in TENSORS.items()),
    *((label, cut, "of a tensor with 54, expected 0:36 and 36:54") for label, cut in ORDERS.items()),
]


@pytest.mark.parametrize(("cut", "reason"), [pytest.param(*rest, id=label) for label, *rest in NEAR])
def test_near_misses_stay(cut, reason):
    model = Layer(cut, [norm(), nn.ReLU()])
    program, (outcome,) = rewritten(model)
    assert not outcome.replaced and reason in outcome.what, outcome.what
    assert not calls(program) and len(calls(program, PLAIN)) == 1


def test_more_channels_than_those_stay():
    model = Layer(lambda p: (p[:, :OFFSETS], p[:, OFFSETS:ALL].sigmoid()), channels=ALL + 2)
    program, (outcome,) = rewritten(model)
    assert "of a tensor with 56, expected 0:36 and 36:54, which are all of them" in outcome.what
    assert not calls(program)


class Twice(Layer):
    """The result of the convolution, or of what follows it, goes to two."""

    def __init__(self, after, place):
        super().__init__(split, after)
        self.place = place

    def forward(self, x):
        y = self.convolve(x)
        between = self.after[: self.place](y)
        return self.after[self.place :](between), between


@pytest.mark.parametrize(
    ("after", "place", "text"),
    [
        ([norm(), nn.ReLU()], 0, "modulated, activation none"),
        ([norm(), nn.ReLU()], 1, "modulated, BatchNorm folded, activation none"),
        ([nn.ReLU()], 0, "modulated, activation none"),
        ([norm(), nn.ReLU()], 2, "modulated, BatchNorm folded, activation relu"),
    ],
)
def test_what_another_takes_too_is_there(after, place, text):
    model = Twice(copy.deepcopy(after), place)
    program, (outcome,) = rewritten(model)
    assert outcome.what == f"bridge.deform_conv2d_fused, {text}"
    x = x_of(3, 12, 5)
    torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-4)


STAYS = "modulated, activation none"


def test_batch_norm_in_training_mode_stays():
    model = Layer(split, [norm(), nn.ReLU()])
    model.after.train()
    program, (outcome,) = rewritten(model)
    assert outcome.what == f"bridge.deform_conv2d_fused, {STAYS}"
    assert [node for node in program.graph.nodes if "batch_norm" in str(node.target)]


def test_batch_norm_with_the_moments_of_its_input_stays():
    _, (outcome,) = rewritten(Layer(split, [norm(track_running_stats=False), nn.ReLU()]))
    assert outcome.what == f"bridge.deform_conv2d_fused, {STAYS}"


def test_weights_that_are_no_constants_are_not_folded():
    class Computed(Layer):
        def forward(self, x):
            offset, mask = self.cut(self.predict(x))
            return self.after(bridge.deform_conv2d(x, offset, self.weight * x.mean(), None, mask, padding=1))

    _, (outcome,) = rewritten(Computed(split, [norm(), nn.ReLU()]))
    assert outcome.what == f"bridge.deform_conv2d_fused, {STAYS}"


def test_weights_that_would_not_be_finite_are_not_folded():
    model = Layer(split, [norm(), nn.ReLU()])
    model.after[0].running_var.data[3] = 1e-12
    model.after[0].weight.data[3], model.weight.data[3] = 1000.0, 100.0
    model = model.half()
    program = export(model, (x_of(dtype=torch.half),))
    _, (outcome,) = rewrite(program, ["deform_conv2d_fused"])
    assert outcome.what == f"bridge.deform_conv2d_fused, {STAYS}"


def test_double_precision_stays():
    program, outcomes = rewrite(export(Layer(split).double(), (x_of().double(),)), ["deform_conv2d_fused"])
    assert not outcomes and calls(program, PLAIN)


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
