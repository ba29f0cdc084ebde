"""Operators of other libraries that are bridge's ops under other names: torchvision's deformable convolution."""

import random
from importlib.util import find_spec

import pytest
import torch
from compile_models import BATCH
from torch import nn

import bridge
from bridge import foreign
from bridge import torch_tensorrt_door as door
from bridge.errors import UnsupportedOpError
from bridge.tensorrt import flavour
from bridge.tensorrt.calls import find_calls

pytestmark = pytest.mark.skipif(find_spec("torchvision") is None, reason="needs torchvision")
needs_torch_tensorrt = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")
SHARED = {"stride": [2, 1], "padding": [1, 1], "dilation": [1, 1]}


@pytest.fixture
def torch_tensorrt():
    module = flavour.detect().torch_tensorrt()
    door.register()
    return module


def torchvision_call(rng, use_mask, groups, offset_groups):
    batch, height, width = rng.randint(1, 3), rng.randint(5, 9), rng.randint(5, 9)
    kernel = rng.randint(1, 3), rng.randint(1, 3)
    stride, pad, dilation = ((rng.randint(1, 2), rng.randint(1, 2)) for _ in range(3))
    channels = groups * offset_groups * rng.randint(1, 2)
    out = [
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, p, d, k, s in zip((height, width), pad, dilation, kernel, stride, strict=True)
    ]
    taps = kernel[0] * kernel[1]
    x, weight = torch.randn(batch, channels, height, width), torch.randn(groups * 2, channels // groups, *kernel)
    offset = torch.randn(batch, 2 * offset_groups * taps, *out) * 2
    mask = torch.rand(batch, offset_groups * taps, *out) if use_mask else torch.zeros(batch, 1)
    bias = torch.randn(groups * 2)
    return x, weight, offset, mask, bias, *stride, *pad, *dilation, groups, offset_groups, use_mask


@pytest.mark.parametrize("seed", range(20))
def test_torchvisions_arguments_mean_what_bridges_do(seed):
    import torchvision  # noqa: F401

    rng = random.Random(seed)
    torch.manual_seed(seed)
    args = torchvision_call(rng, bool(seed % 2), rng.choice((1, 2)), rng.choice((1, 2, 3)))
    overload = torch.ops.torchvision.deform_conv2d.default
    op, tensors, attributes = foreign.bind(overload, args, {})
    assert (tensors[4] is None) == (not args[-1])
    torch.testing.assert_close(op.reference(*tensors, **attributes), overload(*args), rtol=1e-4, atol=1e-4)


def attributes(layers):
    return [layer["attributes"] for layer in layers if layer["type"] == "PLUGIN_V3"]


class Torchvision(nn.Module):
    """torchvision's deformable convolutions: without and with mask and bias; asymmetric."""

    def __init__(self):
        super().__init__()
        import torchvision

        self.offset = nn.Conv2d(4, 36, 3, stride=(2, 1), padding=1)
        self.mask = nn.Conv2d(4, 18, 3, stride=(2, 1), padding=1)
        self.first = torchvision.ops.DeformConv2d(4, 6, 3, (2, 1), 1, groups=2, bias=False)
        self.second = torchvision.ops.DeformConv2d(4, 6, 3, (2, 1), 1)

    def forward(self, x):
        offset = self.offset(x)
        return self.first(x, offset) + self.second(x, offset, self.mask(x).sigmoid())


@needs_torch_tensorrt
def test_torchvisions_operator_becomes_the_plugin_at_every_door(torch_tensorrt):
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, x = Torchvision().eval().to(device), torch.randn(2, 4, 10, 9, device=device)
    target = None if x.is_cuda else "sm86"
    with door.cross_compile(target) as engines:
        compiled = torch_tensorrt.compile(model, ir="dynamo", arg_inputs=[x], min_block_size=1)
    ours = bridge.compile(
        model,
        (x,),
        dynamic_shapes={"x": {0: BATCH}},
        target=None if x.is_cuda else "sm86",
    )
    expected = [SHARED | {"tensors": f"x,offset,weight,bias{mask}"} for mask in ("", ",mask")]
    assert len(engines) == 1 and attributes(door.layers_of(compiled)) == expected
    assert ours.plugin_counts() == {"deform_conv2d": 2}
    assert attributes(ours.layers) == expected


@pytest.mark.parametrize(
    ("place", "value", "text"),
    [
        (11, 2, "groups is 2, but the shapes make it 4 / 4"),
        (12, 3, "offset_groups is 3, but the shapes make it 36 / 18"),
    ],
)
def test_groups_that_contradict_the_shapes_are_refused(place, value, text):
    program = torch.export.export(Torchvision().eval(), (torch.randn(2, 4, 10, 9),))
    node = next(n for n in program.graph.nodes if "deform_conv2d" in n.name and n.args[11] == 1)
    node.update_arg(place, value)
    assert foreign.refuse(node) == text
    with pytest.raises(UnsupportedOpError, match=f"{text}; .*in forward"):
        find_calls(program.graph_module)


@pytest.mark.gpu(engines=True)
def test_torchvisions_operator_equals_eager(torch_tensorrt, device):
    torch.manual_seed(0)
    model, x = Torchvision().eval().to(device), torch.randn(2, 4, 10, 9, device=device)
    compiled = torch_tensorrt.compile(model, ir="dynamo", arg_inputs=[x], min_block_size=1)
    torch.testing.assert_close(compiled(x), model(x), rtol=2e-2, atol=2e-2)
    ours = bridge.compile(model, (x,), dynamic_shapes={"x": {0: BATCH}})
    torch.testing.assert_close(ours(x), model(x), rtol=2e-2, atol=2e-2)
