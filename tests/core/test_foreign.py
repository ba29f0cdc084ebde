"""Operators of other libraries that are bridge's ops under other names: torchvision's."""

import contextlib
import random
from importlib.util import find_spec

import fresh_process
import pytest
import torch
from compile_models import BATCH
from own_ops import forgotten
from torch import nn

import bridge
from bridge.core import foreign
from bridge.core.binding import bind
from bridge.core.op import written
from bridge.doors import torch_tensorrt_door as door
from bridge.errors import EngineError, OpDefinitionError, UnsupportedOpError
from bridge.tensorrt.install import flavour
from bridge.tensorrt.plugins.op_calls import find_calls

pytestmark = pytest.mark.skipif(find_spec("torchvision") is None, reason="needs torchvision")
needs_torch_tensorrt = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")
SHARED = {"stride": [2, 1], "padding": [1, 1], "dilation": [1, 1], "allow_tf32": 0}


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


def test_a_name_is_taken_once_and_stands_for_an_op_that_exists():
    with forgotten():
        bind("acme::suppress", "nms", arguments=dict)
        for name, op, text in [
            ("acme::suppress", "relu", "acme::suppress is bound already, to the op nms"),
            ("suppress", "nms", "'suppress' is no operator's name"),
            ("acme::other", "nmz", f"acme::other: no op is called 'nmz'; there are {', '.join(sorted(written()))}"),
        ]:
            with pytest.raises(OpDefinitionError, match=text):
                bind(name, op, arguments=dict)
        assert "acme::suppress" in foreign.FOREIGN and "acme::other" not in foreign.FOREIGN


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
    constant = [SHARED | {"tensors": f"x,offset,weight=,bias={mask}"} for mask in ("", ",mask")]
    assert attributes(ours.layers) == constant


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
    assert foreign.reason_against(node) == text
    with pytest.raises(UnsupportedOpError, match=f"{text}; .*in forward"):
        find_calls(program.graph_module)


class Heads(nn.Module):
    """torchvision's pooling of regions: boxes in one tensor, and a list of boxes an image."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 16, 3, padding=1)

    def forward(self, x, rois, boxes):
        import torchvision

        features = self.body(x)
        first = torchvision.ops.roi_align(features, rois, (2, 5), 0.5)
        return first, torchvision.ops.roi_align(features, boxes, 3, sampling_ratio=2, aligned=True)

    @staticmethod
    def example(device="cpu", regions=7):
        g = torch.Generator().manual_seed(0)
        images = torch.randint(0, 2, (regions, 1), generator=g)
        rois = torch.cat((images, torch.rand(regions, 4, generator=g) * 20), 1)
        boxes = [torch.rand(count, 4, generator=g) * 12 for count in (3, regions)]
        x = torch.randn(2, 3, 12, 15, generator=g)
        return x.to(device), rois.to(device), [tensor.to(device) for tensor in boxes]

    @staticmethod
    def shapes():
        counts = [torch.export.Dim(name, min=0, max=100) for name in ("k", "first", "second")]
        return {"x": None, "rois": {0: counts[0]}, "boxes": [{0: count} for count in counts[1:]]}


@needs_torch_tensorrt
def test_torchvisions_roi_align_becomes_the_plugin_at_every_door(torch_tensorrt):
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    target = None if device == "cuda" else "sm86"
    model, args = Heads().eval().to(device), Heads.example(device)
    ours = bridge.compile(model, args, dynamic_shapes=Heads.shapes(), target=target)
    expected = [
        {"output_size": [2, 5], "spatial_scale": 0.5, "sampling_ratio": -1, "aligned": 0, "tensors": "x,rois"},
        {"output_size": [3, 3], "spatial_scale": 1.0, "sampling_ratio": 2, "aligned": 1, "tensors": "x,rois"},
    ]
    assert ours.plugin_counts() == {"roi_align": 2} and attributes(ours.layers) == expected
    assert [spec.min[0] for spec in ours.inputs[1:]] == [0] * 3
    with door.cross_compile(target) as engines:
        program = torch.export.export(model, args)
        compiled = torch_tensorrt.dynamo.compile(program, arg_inputs=args, min_block_size=1)
    assert len(engines) == 1 and attributes(door.layers_of(compiled)) == expected
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="bridge", options={"target": target} if target else {})
    with torch.no_grad(), pytest.raises(EngineError, match="no CUDA GPU") if target else contextlib.nullcontext():
        compiled(*args)
    assert bridge.report(compiled).plugin_counts() == {"roi_align": 2}


@needs_torch_tensorrt
def test_torchvision_may_be_imported_by_the_model_alone():
    """While it is captured, after bridge has looked for operators that it knows."""
    code = (
        "import sys, bridge; from test_foreign import Heads; assert 'torchvision' not in sys.modules\n"
        "found = bridge.compile(Heads().eval(), Heads.example(), dynamic_shapes=Heads.shapes(), target='sm86')\n"
        "assert found.plugin_counts() == {'roi_align': 2}, found.plugin_counts()"
    )
    done = fresh_process.run(code, imported=fresh_process.COMPILER)
    assert done.returncode == 0, done.stderr


def test_bins_that_depend_on_shapes_are_refused():
    import torchvision

    class Net(nn.Module):
        def forward(self, x, rois):
            return torchvision.ops.roi_align(x, rois, (x.shape[2], 2))

    height = torch.export.Dim("height", min=2, max=20)
    args = torch.randn(1, 3, 9, 8), torch.rand(4, 5)
    program = torch.export.export(Net(), args, dynamic_shapes={"x": {2: height}, "rois": None})
    with pytest.raises(UnsupportedOpError, match=r"pooled_height is .*, which depends on shapes"):
        find_calls(program.graph_module)


@pytest.mark.gpu(engines=True)
def test_torchvisions_roi_align_equals_eager(device):
    torch.manual_seed(0)
    model, args = Heads().eval().to(device), Heads.example(device)
    ours = bridge.compile(model, args, dynamic_shapes=Heads.shapes())
    for regions in (7, 1, 50):
        args = Heads.example(device, regions)
        for mine, theirs in zip(ours(*args), model(*args), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=2e-2, atol=2e-2)


@pytest.mark.gpu(engines=True)
def test_torchvisions_operator_equals_eager(torch_tensorrt, device):
    torch.manual_seed(0)
    model, x = Torchvision().eval().to(device), torch.randn(2, 4, 10, 9, device=device)
    compiled = torch_tensorrt.compile(model, ir="dynamo", arg_inputs=[x], min_block_size=1)
    torch.testing.assert_close(compiled(x), model(x), rtol=2e-2, atol=2e-2)
    ours = bridge.compile(model, (x,), dynamic_shapes={"x": {0: BATCH}})
    torch.testing.assert_close(ours(x), model(x), rtol=2e-2, atol=2e-2)
