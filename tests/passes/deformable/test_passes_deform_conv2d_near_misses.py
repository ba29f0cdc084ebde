"""What the pass deform_conv2d_fused leaves as it is, wholly or in part."""

import copy

import pytest
import torch
import torch.nn.functional as F
from deformable_layers import ALL, OFFSETS, PLAIN, Layer, calls, norm, rewritten, split, x_of
from torch import nn
from torch.export import export

import bridge
from bridge.passes import rewrite

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
