"""Native lowerings: the network that an op becomes, evaluated on the CPU, against the op's reference."""

import math
from importlib.util import find_spec

import pytest
import torch
from layer_interpreter import interpret
from samples import SAMPLES

from bridge import lowerings
from bridge.op import OPS
from bridge.tensorrt import build, dtypes, flavour
from bridge.tensorrt.layers import Layers
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
    for output in lowerings.find(name).add(Layers(trt, network, name, constants), inputs, attributes):
        network.mark_output(output)
    return trt, builder, network, constants


def run(name, args, kwargs, dynamic=None):
    tensors, attributes = OPS[name].bind(args, kwargs)
    trt, _, network, _ = lowered(name, tensors, attributes, dynamic or {})
    given = {f"input{place}": tensor for place, tensor in enumerate(tensors) if tensor is not None}
    return interpret(trt, network, given)


def all_dynamic(name, tensors):
    """The axes that a model may leave open: all of relu's, and batch, length, height and width."""
    if name == "relu":
        return {0: range(tensors[0].dim())}
    if name == "rope":
        tables = {2: [*range(tensors[2].dim() - 1)], 3: [*range(tensors[3].dim() - 1)], 4: [0, 1]}
        for place in (2, 3, 4):  # an extent of 1 that is repeated is a fixed one
            if len(tensors) > place and tensors[place] is not None:
                tables[place] = [axis for axis in tables[place] if tensors[place].shape[axis] != 1]
        return {0: [0, 1, 2], 1: [0, 1, 2], **tables}
    return {0: [0, 2, 3], 1: [0, 2, 3], 4: [0, 2, 3]}


CALLS = [pytest.param(name, *sample[1:], id=f"{name} {sample[0]}") for name in OPS for sample in SAMPLES[name]()]


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("name", "args", "kwargs"), CALLS)
def test_the_layers_compute_what_the_reference_does(name, args, kwargs, dtype, dynamic):
    given = cast(args, dtype)
    open_axes = all_dynamic(name, given) if dynamic else None
    exact = outputs_of(OPS[name].run(*cast(given, torch.float64), **kwargs))
    rounded = outputs_of(OPS[name].run(*given, **kwargs))
    for wanted, peer, ours in zip(exact, rounded, run(name, given, kwargs, open_axes), strict=True):
        assert ours.dtype == dtype and ours.shape == wanted.shape
        if name == "deform_conv2d" and wanted.numel():  # samples and sums are rounded too, coordinates differ by some
            scale = torch.finfo(dtype).eps * 8 if dtype != torch.float32 else 1e-4
            assert (ours.double() - wanted).abs().max() <= scale * wanted.abs().max()
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
