"""Native lowerings: the network that an op becomes, evaluated on the CPU, against the op's reference."""

import math
from importlib.util import find_spec

import pytest
import torch
from layer_interpreter import interpret
from samples import MODULES, SAMPLES

import bridge
from bridge.core.op import OPS
from bridge.engine_file import dtypes
from bridge.tensorrt import native_lowerings
from bridge.tensorrt.converters.layers import Layers
from bridge.tensorrt.install import flavour
from bridge.tensorrt.network import build
from bridge.tensorrt.plugins.fields import Call
from bridge.testing import cast, check_error, outputs_of

pytestmark = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="needs tensorrt_rtx")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def lowered(name, tensors, attributes, dynamic):
    """The network of one call; `dynamic` axes of each tensor, by its place, have no extent in it."""
    found = flavour.detect()
    trt = found.trt()
    builder, network = build.create_network(found)
    inputs = []
    for place, tensor in enumerate(tensors):
        if tensor is None:
            inputs.append(None)
            continue
        shape = [-1 if axis in dynamic.get(place, ()) else extent for axis, extent in enumerate(tensor.shape)]
        inputs.append(network.add_input(f"input{place}", dtypes.from_torch(tensor.dtype).of(trt), shape))
    constants = []
    for output in native_lowerings.find(name).add(Layers(trt, network, name, constants), inputs, attributes):
        network.mark_output(output)
    return trt, builder, network, constants


def run(name, args, kwargs, dynamic=None):
    tensors, attributes = OPS[name].bind(args, kwargs)
    trt, _, network, _ = lowered(name, tensors, attributes, dynamic or {})
    given = {f"input{place}": tensor for place, tensor in enumerate(tensors) if tensor is not None}
    return interpret(trt, network, given)


NATIVE = [name for name in OPS if native_lowerings.find(name)]


def call_of(name, args, kwargs):
    """A call with fixed extents."""
    tensors, attributes = OPS[name].bind(args, kwargs)
    given = tuple(None if t is None else (dtypes.from_torch(t.dtype), tuple(t.shape)) for t in tensors)
    return Call(name, OPS[name], given, (), attributes)


def possible(name):
    """The samples of an op that its layers can compute."""
    calls = ((sample, call_of(name, *sample[1:])) for sample in SAMPLES[name]())
    return [sample for sample, call in calls if native_lowerings.refusal(call, flavour.detect().trt()) is None]


def native_samples():
    """Those of every op; none where there is no TensorRT, and all is skipped."""
    return {name: possible(name) for name in NATIVE} if find_spec("tensorrt_rtx") else {}


NATIVE_SAMPLES = native_samples()
CALLS = [
    pytest.param(name, *args, id=f"{name} {label}") for name, found in NATIVE_SAMPLES.items() for label, *args in found
]


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("name", "args", "kwargs"), CALLS)
def test_the_layers_compute_what_the_reference_does(name, args, kwargs, dtype, dynamic):
    given = cast(args, dtype)
    open_axes = MODULES[name].open_axes(given) if dynamic else None
    tolerance = getattr(MODULES[name], "NATIVE_TOLERANCE", {}).get(dtype)
    exact = outputs_of(OPS[name].run(*cast(given, torch.float64), **kwargs))
    rounded = outputs_of(OPS[name].run(*given, **kwargs))
    for wanted, peer, ours in zip(exact, rounded, run(name, given, kwargs, open_axes), strict=True):
        assert ours.dtype == dtype and ours.shape == wanted.shape
        if tolerance and wanted.numel():
            assert (ours.double() - wanted).abs().max() <= tolerance * wanted.abs().max()
        else:
            check_error(name, wanted, peer, ours)


RELU = [0.0, 0.01, 1.0, 1.5, -0.5, -2.0]
LIMITS = [math.inf, 6.0, 0.5, 0.0, -0.5, -3.0, 1e30, -math.inf]


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("slope", RELU)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_relu_at_every_slope_and_limit(dtype, slope, limit):
    x = torch.tensor([-math.inf, -100.0, -1.0, -1e-7, 0.0, 1e-7, 0.3, 1.0, 7.0, 100.0, math.inf]).to(dtype)
    x = x[1:] if slope == 0 else x  # 0 * -inf is NaN in the reference
    (ours,) = run("relu", [x], {"negative_slope": slope, "max_value": limit})
    torch.testing.assert_close(ours, OPS["relu"].run(x, slope, limit), rtol=1e-6, atol=0)


@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
def test_float32_tables_make_16_bit_rope_compute_in_float32(layout):
    q = torch.randn(2, 3, 3, 8).half()
    cos, sin = torch.randn(3, 4), torch.randn(3, 4)
    ours = run("rope", [q, q, cos, sin], {"layout": layout})
    for mine, expected in zip(ours, OPS["rope"].run(q, q, cos, sin, layout=layout), strict=True):
        assert torch.equal(mine, expected)


def test_points_on_and_beyond_the_edge_of_the_map():
    """Samples at whole pixels, half way out, at -1 and at the extent, and far away."""
    x = torch.arange(1.0, 13.0).reshape(1, 1, 3, 4)
    places = torch.tensor([-1e6, -2.0, -1.0, -0.5, 0.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 1e6])
    y, column = (grid - base for grid, base in zip(torch.meshgrid(places, places, indexing="ij"), (0, 0), strict=True))
    weight = torch.ones(1, 1, 1, 1)
    base_y, base_x = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    offset = torch.stack([y - base_y, column - base_x]).unsqueeze(0)
    wide = torch.nn.functional.pad(x, (0, 8, 0, 9))  # as many outputs as places
    (ours,) = run("deform_conv2d", [wide, offset, weight], {})
    torch.testing.assert_close(ours, OPS["deform_conv2d"].run(wide, offset, weight), rtol=0, atol=1e-5)


# Inside engines, on a GPU

_TOLERANCE = {torch.float32: 2e-3, torch.float16: 4e-3, torch.bfloat16: 3e-2}  # float32 products may be TF32
_TOGETHER = 8  # calls in one engine


class Several(torch.nn.Module):
    """Some calls of one op, each on tensors of its own."""

    def __init__(self, name, attributes):
        super().__init__()
        self.name, self.attributes = name, attributes

    def forward(self, calls):
        op = OPS[self.name]
        return [outputs_of(op.overload(*args, **kwargs)) for args, kwargs in zip(calls, self.attributes, strict=True)]


def samples_together():
    """Samples without empty tensors, some of them at a time."""
    for name, found in NATIVE_SAMPLES.items():
        samples = [sample for sample in found if all(t is None or t.numel() for t in sample[1])]
        for start in range(0, len(samples), _TOGETHER):
            yield pytest.param(name, samples[start : start + _TOGETHER], id=f"{name} {start}")


GROUPS = list(samples_together())


def compiled(name, samples, dtype, **settings):
    calls = [cast(args, dtype) for _, args, _ in samples]
    model = Several(name, [kwargs for _, _, kwargs in samples]).eval()
    engine = bridge.compile(model, (calls,), lowering="native", tf32=False, **settings)
    assert engine.plugin_counts() == {}
    return calls, engine


@pytest.mark.parametrize(("name", "samples"), GROUPS)
def test_every_variant_becomes_an_engine(name, samples):
    assert len(compiled(name, samples, torch.float16, target="sm86")[1].engine) > 1000


@pytest.mark.gpu(engines=True)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("name", "samples"), GROUPS)
def test_native_engines_agree_with_the_reference(name, samples, dtype, device):
    calls, engine = compiled(name, samples, dtype)
    results = engine([cast(args, device="cuda") for args in calls])
    for (label, _, kwargs), args, outputs in zip(samples, calls, results, strict=True):
        exact = outputs_of(OPS[name].run(*cast(args, torch.float64), **kwargs))
        for wanted, ours in zip(exact, outputs, strict=True):
            assert ours.dtype == dtype and ours.shape == wanted.shape, label
            error = (ours.cpu().double() - wanted).abs().max()
            assert error <= _TOLERANCE[dtype] * max(1.0, wanted.abs().max()), label


@pytest.mark.gpu(engines=True)
def test_float32_tables_in_a_16_bit_engine(device):
    class Net(torch.nn.Module):
        def forward(self, q, cos, sin):
            return bridge.rope(q, q, cos, sin)[0]

    q, cos, sin = torch.randn(2, 3, 5, 8).half(), torch.randn(5, 4), torch.randn(5, 4)
    engine = bridge.compile(Net().eval(), (q, cos, sin), lowering="native")
    expected = OPS["rope"].run(q, q, cos, sin)[0]
    torch.testing.assert_close(
        engine(q.to(device), cos.to(device), sin.to(device)).cpu(), expected, rtol=2e-3, atol=1e-3
    )


@pytest.mark.gpu(engines=True)
@pytest.mark.parametrize("limit", [math.inf, 6.0, 0.0, -0.5])
@pytest.mark.parametrize("slope", [0.0, 0.01, 1.5, -0.5])
def test_relu_engines_at_slopes_and_limits(slope, limit, device):
    class Net(torch.nn.Module):
        def forward(self, x):
            return bridge.relu(x, slope, limit)

    x = torch.tensor([-100.0, -1.0, -1e-7, 0.0, 1e-7, 0.3, 1.0, 7.0, 100.0, math.inf])
    engine = bridge.compile(Net().eval(), (x,), lowering="native")
    torch.testing.assert_close(engine(x.to(device)).cpu(), OPS["relu"].run(x, slope, limit), rtol=1e-6, atol=0)
