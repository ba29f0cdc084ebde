"""Models with operators that have generated plugins, at every door, up to the engine and what runs it."""

import logging

import fresh_process
import pytest
import torch
import triton
import triton.language as tl
import triton_ops
from oracle import interpreted
from torch import nn
from torch.export import Dim

import bridge
from bridge.engine_file.contents import EngineFile
from bridge.errors import UnsupportedOpError
from bridge.generate import build

WIDTH = 40
BATCH = Dim("batch", min=1, max=8)


class Norm(nn.Module):
    """An operator with two kernels, in the middle of a model."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.weight = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.rand(WIDTH))

    def forward(self, x):
        return triton_ops.rms_norm(self.linear(x), self.weight, 1e-5).relu()


X = torch.linspace(-1, 1, 3 * WIDTH).view(3, WIDTH)


@pytest.fixture(scope="module")
def norm():
    return Norm().eval().requires_grad_(False)


def compiled_norm(norm):
    return bridge.compile(norm, (X,), dynamic_shapes=({0: BATCH},), target="sm86", cache=False)


@pytest.fixture
def builds(monkeypatch):
    """The libraries that are built, not taken from the cache: names of their ops."""
    built, original = [], build._build
    monkeypatch.setattr(build, "_build", lambda *args: built.append(args[2]) or original(*args))
    return built


def operators(counts):
    """Generated plugins without their digits."""
    return sorted(name.rpartition("_")[0] for name in counts)


def test_a_model_with_a_dynamic_batch_has_one_plugin_and_a_second_compile_builds_nothing(norm, builds):
    first = compiled_norm(norm).plugin_counts()
    assert operators(first) == ["generate_test::rms_norm"] and list(first.values()) == [1]
    builds.clear()
    assert compiled_norm(norm).plugin_counts() == first
    assert builds == []


_FRESH = """
import sys
from bridge.core.op import OPS
from bridge.engine_file.contents import EngineFile
from bridge.tensorrt.install.flavour import detect
from bridge.tensorrt.plugins.registration import register_plugins
from bridge.tensorrt.run.engine import check_compatible

file = EngineFile.load(sys.argv[1])
check_compatible(file, detect())
(name,) = file.plugins
register_plugins(detect().trt(), [OPS[name].library])
print(OPS[name].operator, "triton" in sys.modules)
"""


def test_a_fresh_process_needs_the_cache_alone(norm, tmp_path):
    """Neither Triton nor what defines the operator."""
    compiled_norm(norm).save(tmp_path / "norm.engine")
    done = fresh_process.run(_FRESH, tmp_path / "norm.engine")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["generate_test::rms_norm", "False"]
    lost = fresh_process.run(_FRESH, tmp_path / "norm.engine", BRIDGE_CACHE_DIR=str(tmp_path / "other"))
    (plugin,) = EngineFile.load(tmp_path / "norm.engine").plugins
    assert lost.returncode != 0 and f"the engine needs the plugin {plugin}" in lost.stderr


def test_torch_tensorrt_has_it_in_its_engine(norm):
    torch_tensorrt = pytest.importorskip("torch_tensorrt")
    with bridge.cross_compile("sm86"):
        module = torch_tensorrt.compile(norm, ir="dynamo", inputs=[X], min_block_size=1)
    assert operators(bridge.report(module).plugin_counts()) == ["generate_test::rms_norm"]


@triton.jit
def _add_one(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, mask=i < n) + 1, mask=i < n)


class Launch(nn.Module):
    """A kernel that the model launches itself."""

    def forward(self, x):
        x = x * 2
        y = torch.empty_like(x)
        _add_one[(triton.cdiv(x.numel(), 128),)](x, y, x.numel(), 128)
        return y.relu()


def test_a_launch_in_the_model_is_a_plugin():
    compiled = bridge.compile(Launch().eval(), (X,), dynamic_shapes=({0: BATCH},), target="sm86", cache=False)
    assert operators(compiled.plugin_counts()) == ["triton::_add_one"]


@torch.library.custom_op("generated_doors::swish", mutates_args=())
def swish(x: torch.Tensor, beta: float, gate: float = 1.0) -> torch.Tensor:
    return gate * x * torch.sigmoid(beta * x)


@swish.register_fake
def _(x, beta, gate=1.0):
    return torch.empty_like(x)


class Swishes(nn.Module):
    """Four calls, of which two are the same, and one has its default written out."""

    def forward(self, x):
        return swish(x, 1.0) + swish(x.neg(), 1.0) + swish(x, 2.0) + swish(x, 1.0, gate=1.0)


def test_the_same_calls_share_a_plugin_and_others_have_their_own():
    model = Swishes().eval()
    compiled = bridge.compile(model, (X,), target="sm86", cache=False)
    assert sorted(compiled.plugin_counts().values()) == [1, 3]


def test_results_are_those_of_the_body():
    model = Swishes().eval()
    with interpreted():
        compiled = bridge.compile(model, (X,), dynamic_shapes=({0: BATCH},), target="sm86", cache=False)
        for rows in (1, 3, 8):
            x = torch.randn(rows, WIDTH)
            torch.testing.assert_close(compiled(x), model(x))


class Odd(nn.Module):
    def forward(self, x):
        return torch.logcumsumexp(torch.lgamma(x.relu() + 1) + torch.erfinv(x.tanh() * 0.5), 1)


def test_operators_without_a_converter_on_request():
    model = Odd().eval()
    with pytest.raises(UnsupportedOpError, match=r"(?s)cannot run 3 of the model's operators.*generate=True"):
        bridge.compile(model, (X,), target="sm86", cache=False)
    compiled = bridge.compile(model, (X,), target="sm86", generate=True, cache=False)
    assert operators(compiled.plugin_counts()) == ["inductor::erfinv", "inductor::lgamma", "inductor::logcumsumexp"]
    with interpreted():
        torch.testing.assert_close(
            bridge.compile(model, (X,), target="sm86", generate=True)(X), model(X), atol=1e-5, rtol=1e-5
        )


@torch.library.custom_op("generated_doors::by_value", mutates_args=())
def by_value(x: torch.Tensor) -> torch.Tensor:
    return x * x.amax().item()


@by_value.register_fake
def _(x):
    return torch.empty_like(x)


@torch.library.custom_op("generated_doors::writes", mutates_args=("x",))
def writes(x: torch.Tensor) -> None:
    x += 1


class ByValue(nn.Module):
    def forward(self, x):
        return by_value(x * 2).relu().exp() + 1


class Writes(nn.Module):
    def forward(self, x):
        y = x * 2
        writes(y)
        return y


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (ByValue(), r"(?s)by_value cannot become a plugin: .* needs a value on the host.*in forward: return by_value"),
        (Writes(), "generated_doors::writes writes into x, and an engine only reads its inputs"),
    ],
    ids=["values", "writes"],
)
def test_what_cannot_be_generated_is_refused_with_the_line(model, message):
    with pytest.raises(UnsupportedOpError, match=message) as caught:
        bridge.compile(model.eval(), (X,), target="sm86", cache=False)
    assert "docs/unsupported.md" in str(caught.value)


def test_fallback_runs_it_in_pytorch_and_says_why(evaluated, caplog):
    model = ByValue().eval()
    with caplog.at_level(logging.WARNING, "bridge"):
        fast = torch.compile(model, backend="bridge", options={"target": "sm86", "fallback": True})
        torch.testing.assert_close(fast(X), model(X))
    assert any("by_value cannot become a plugin" in record.getMessage() for record in caplog.records)
    assert "generated_doors.by_value.default" in {node.operator for node in bridge.report(fast).torch_nodes}
