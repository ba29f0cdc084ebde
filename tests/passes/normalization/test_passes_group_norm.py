"""The pass group_norm: layers of diffusion models and detectors, written as they are, and what only resembles them."""

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

OP = OPS["group_norm"].overload


class ResnetBlock(nn.Module):
    """A block of a latent diffusion U-Net, with the embedding of the time step."""

    def __init__(self, channels=32, out=64, groups=8):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, channels, eps=1e-6), nn.Conv2d(channels, out, 3, padding=1)
        self.embedding = nn.Linear(16, out)
        self.norm2, self.conv2 = nn.GroupNorm(groups, out, eps=1e-6), nn.Conv2d(out, out, 3, padding=1)
        self.shortcut, self.act = nn.Conv2d(channels, out, 1), nn.SiLU()

    def forward(self, x, step):
        y = self.conv1(self.act(self.norm1(x)))
        y = y + self.embedding(self.act(step))[:, :, None, None]
        return self.shortcut(x) + self.conv2(self.act(self.norm2(y)))


class GroupNorm32(nn.GroupNorm):
    """Computes in float32 whatever the dtype."""

    def forward(self, x):
        return super().forward(x.float()).type(x.dtype)


def swish(x):
    return x * torch.sigmoid(x)


class Two(nn.Module):
    """A normalisation and a function of its result."""

    def __init__(self, norm, after=lambda y: y, before=lambda x: x):
        super().__init__()
        self.norm, self.after, self.before = norm, after, before

    def forward(self, x):
        return self.after(self.norm(self.before(x)))


def with_values(model):
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = torch.rand_like(tensor) + 0.5
    return model.eval()


def rewritten(model, *args, shapes=None):
    return rewrite(export(model, args, dynamic_shapes=shapes), ["group_norm"])


def calls(program):
    return program.graph.find_nodes(op="call_function", target=OP)


X = torch.randn(2, 32, 9, 11)
BATCH, HEIGHT, WIDTH = (Dim(name, min=2, max=64) for name in ("batch", "height", "width"))
FOUND = [
    ("SiLU", Two(nn.GroupNorm(8, 32), nn.SiLU()), X, "8 groups, activation silu"),
    ("SiLU in place", Two(nn.GroupNorm(8, 32), nn.SiLU(inplace=True)), X, "8 groups, activation silu"),
    ("swish", Two(nn.GroupNorm(8, 32), swish), X, "8 groups, activation silu"),
    ("ReLU in place", Two(nn.GroupNorm(32, 32), nn.ReLU(inplace=True)), X, "32 groups, activation relu"),
    ("GELU", Two(nn.GroupNorm(1, 32), nn.GELU()), X, "1 groups, activation gelu"),
    ("instance norm", Two(nn.InstanceNorm2d(32, affine=True), F.relu), X, "32 groups, activation relu"),
    ("one axis", Two(nn.GroupNorm(8, 32), F.silu), X[:, :, 0], "8 groups, activation silu"),
    ("no axis", Two(nn.GroupNorm(8, 32), F.silu), X[:, :, 0, 0], "8 groups, activation silu"),
    ("in float32", Two(GroupNorm32(8, 32), F.silu), X.half(), "8 groups, activation silu"),
    ("in float32 with swish", Two(GroupNorm32(8, 32), swish), X.bfloat16(), "8 groups, activation silu"),
    ("channels last", Two(nn.GroupNorm(8, 32), F.silu), X.to(memory_format=torch.channels_last), "8 groups"),
]


@pytest.mark.parametrize(("model", "x", "text"), [pytest.param(*rest, id=label) for label, *rest in FOUND])
def test_is_found(model, x, text):
    model = with_values(model)
    program, outcomes = rewritten(model, x)
    assert [outcome.replaced for outcome in outcomes] == [True] and text in outcomes[0].what, outcomes
    assert len(calls(program)) == 1
    tolerance = {} if x.dtype == torch.float32 else {"rtol": 2 * torch.finfo(x.dtype).eps, "atol": 1e-3}
    torch.testing.assert_close(program.module()(x), model(x), **tolerance)


STAY = [
    ("alone", nn.GroupNorm(8, 32, affine=False)),
    ("another GELU", Two(nn.GroupNorm(8, 32), nn.GELU("tanh"))),
    ("used twice", Two(nn.GroupNorm(8, 32), lambda y: F.silu(y) + y)),
    ("an activation of something else", Two(nn.GroupNorm(8, 32), lambda y: F.silu(y + 1))),
]


@pytest.mark.parametrize("model", [pytest.param(model, id=label) for label, model in STAY])
def test_those_without_an_activation_stay(model):
    program, outcomes = rewritten(model.eval(), X)
    assert not outcomes and not calls(program)


@pytest.mark.parametrize("decomposed", [False, True])
def test_a_block_of_a_diffusion_model(decomposed):
    model, args = with_values(ResnetBlock()), (X, torch.randn(2, 16))
    program = export(model, args, dynamic_shapes=({0: BATCH, 2: HEIGHT, 3: WIDTH}, {0: BATCH}))
    program, outcomes = rewrite(program.run_decompositions() if decomposed else program, ["group_norm"])
    assert [outcome.what for outcome in outcomes] == ["bridge.group_norm, 8 groups, activation silu"] * 2
    assert [call.kwargs["eps"] for call in calls(program)] == [1e-6] * 2
    other = torch.randn(5, 32, 16, 7), torch.randn(5, 16)
    torch.testing.assert_close(program.module()(*other), model(*other), rtol=1e-5, atol=1e-3)


def test_conversions_to_float32_go_where_both_are_there():
    program, _ = rewritten(with_values(Two(GroupNorm32(8, 32), F.silu)), X.half())
    (call,) = calls(program)
    assert call.args[0].op == "placeholder" and call.meta["val"].dtype == torch.float16
    program, _ = rewritten(with_values(Two(nn.GroupNorm(8, 32), F.silu, torch.Tensor.float)), X.half())
    (call,) = calls(program)
    assert call.args[0].meta["val"].dtype == call.meta["val"].dtype == torch.float32


def test_moments_that_the_model_uses_stay():
    class Moments(nn.Module):
        def forward(self, x):
            y, mean, _ = torch.ops.aten.native_group_norm(x, None, None, 2, 32, 99, 8, 1e-5)
            return y, mean

    program, outcomes = rewritten(Moments(), X)
    assert not outcomes and not calls(program)


def test_running_moments_stay():
    norm = nn.InstanceNorm2d(32, track_running_stats=True).eval()
    program, outcomes = rewritten(norm, X)
    assert not outcomes and not calls(program)


def test_double_precision_is_declined():
    _, (outcome,) = rewritten(Two(nn.GroupNorm(8, 32), F.silu).double(), X.double())
    assert not outcome.replaced and "float64" in outcome.what


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("last", [False, True])
def test_an_engine_of_the_block(dtype, last):
    pytest.importorskip("torch_tensorrt", reason="needs torch_tensorrt")
    model, args = with_values(ResnetBlock()).to(dtype), (X.to(dtype), torch.randn(2, 16).to(dtype))
    if last:
        model = model.to(memory_format=torch.channels_last)
        args = (args[0].to(memory_format=torch.channels_last), args[1])
    with oracle.interpreted(engines=True):
        compiled = oracle.ahead(model, args, ({0: BATCH, 2: HEIGHT, 3: WIDTH}, {0: BATCH}), passes=["group_norm"])
        found = compiled(*args)
    expected = model(*args)
    largest = expected.abs().max().item()
    torch.testing.assert_close(
        found, expected, rtol=0, atol=(64 if dtype == torch.float32 else 8) * torch.finfo(dtype).eps * largest
    )
    assert bridge.report(compiled).plugin_counts() == {"group_norm": 2}
