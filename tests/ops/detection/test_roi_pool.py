"""roi_pool: torchvision's windows and maxima, what lies beyond maps, and numbers that are none."""

import math
from importlib.util import find_spec

import oracle
import pytest
import torch
from samples.detection.roi_align import roi_align_arguments
from samples.detection.roi_pool import random_call, region_arguments
from test_roi_align import BAD, DTYPES, REGION, arguments_with

import bridge
from bridge.core import libraries
from bridge.core.op import OPS
from bridge.doors import torch_tensorrt_door as door
from bridge.errors import OpInputError, UnsupportedOpError
from bridge.tensorrt.install import flavour
from bridge.testing import check_cuda

OP = OPS["roi_pool"]
needs_torch_tensorrt = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")


def torchvisions():
    return pytest.importorskip("torchvision.ops", reason="needs torchvision")


def test_is_torchvision():
    for seed in range(40):
        (x, rois), kwargs = random_call(seed)
        expected = torchvisions().roi_pool(x, rois, **kwargs)
        assert torch.equal(bridge.roi_pool(x, rois, **kwargs), expected), seed


ROWS = {
    "halves": (0, 2.5, 3.5, 8.5, 6.5),
    "just below a half": (1, 0.49999997, 0.0, 4.49999997, 3.0),
    "negative halves": (0, -2.5, -3.5, 2.5, 1.5),
    "larger": (0, -20, -30, 60, 50),
    "beyond": (1, 40, 40, 60, 60),
    "a point": (1, 5.5, 5.5, 5.5, 5.5),
    "reversed": (0, 12.2, 9.3, 4.1, 2.6),
    "a bin whose end rounds up": (0, 0, 0, 8, 10),  # 7 * (11 / 7) is more than 11 in float32
    "an image's fraction": (1.75, 1.3, 2.2, 9.9, 7.1),
}


@pytest.mark.parametrize("name", ["roi_pool", "ps_roi_pool"])
def test_regions_of_every_kind_are_torchvisions(name):
    for bins in ((1, 1), (2, 5), (7, 7)):
        x = torch.randn(2, 2 * bins[0] * bins[1], 11, 17, generator=torch.Generator().manual_seed(bins[0]))
        rois = torch.tensor(list(ROWS.values()))
        expected = getattr(torchvisions(), name)(x, rois, bins, 0.75)
        torch.testing.assert_close(getattr(bridge, name)(x, rois, bins, 0.75), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["roi_pool", "ps_roi_pool"])
def test_gradient_is_torchvisions(name):
    x, rois = roi_align_arguments(6, 2, 12, (9, 12), seed=3)
    rois[:, 3] = rois[:, 3].clamp(max=40.0)  # torchvision's own means leave out the last row, its gradients do not
    rois[:, 4] = rois[:, 4].clamp(max=28.0)
    grads = []
    for function in (getattr(bridge, name), getattr(torchvisions(), name)):
        leaf = x.clone().requires_grad_()
        function(leaf, rois, (3, 4), 0.25).square().sum().backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)


def test_values_that_are_no_numbers():
    x = torch.zeros(1, 1, 2, 6)
    x[..., 0:2], x[..., 0, 2], x[..., 1, 3], x[..., 4:] = math.nan, math.inf, math.nan, -math.inf
    rois = torch.tensor([[0, 0.0, 0.0, 1.0, 1.0], [0, 2.0, 0.0, 3.0, 1.0], [0, 4.0, 0.0, 5.0, 1.0]])
    least = -torch.finfo(torch.float32).max
    assert bridge.roi_pool(x, rois, 1).flatten().tolist() == [least, math.inf, least]
    assert bridge.roi_pool(x.half(), rois, 1).flatten().tolist() == [-math.inf, math.inf, -math.inf]


@pytest.mark.parametrize("name", ["roi_pool", "ps_roi_pool", "ps_roi_align"])
def test_regions_that_are_not_finite_are_nan_and_no_others(name):
    x, pool = torch.randn(1, 4, 6, 7), getattr(bridge, name)
    rois = torch.tensor([REGION] * 6)
    for row, (place, value) in enumerate(((1, math.nan), (2, math.inf), (3, -math.inf), (4, 3e38)), 1):
        rois[row, place] = value
    y = pool(x, rois, 2, 4.0)  # times 4 the largest is infinite too
    assert y[1:5].isnan().all() and torch.equal(y[[0, 5]], pool(x, rois[[0, 5]], 2, 4.0))
    with pytest.raises(OpInputError, match="row 2 of rois is in image 1, but x has 1 images"):
        pool(x, torch.tensor([REGION, REGION, [1, *REGION[1:]]]), 2)


def test_dtypes_of_regions_may_differ():
    x, rois = region_arguments(5, 2, 3, (9, 8))
    expected = bridge.roi_pool(x, rois, 3, 0.25)
    assert torch.equal(bridge.roi_pool(x, rois.double(), 3, 0.25), expected)
    assert torch.equal(bridge.roi_pool(x.double(), rois, 3, 0.25), expected.double())
    assert bridge.roi_pool(x.bfloat16(), rois.half(), 3, 0.25).dtype == torch.bfloat16


def check_bad_input(name, rows):
    """That bridge and the plugin library refuse arguments of an op over regions, with the same words."""
    op = OPS[name]
    known = {*op.tensors, *(attribute.name for attribute in op.attributes)}
    for label, changes, text in rows:
        if not changes.keys() <= known:
            continue
        args = {"output_size": 2, **arguments_with(**changes)}
        with pytest.raises(OpInputError, match=f"{name}: .*{text}"):
            getattr(bridge, name)(**args)
        tensors, attributes = op.bind((), args)
        with pytest.raises(OpInputError, match=text):
            raise AssertionError(
                label, libraries.infer_shapes(op, [t if t is None else tuple(t.shape) for t in tensors], attributes)
            )


def test_bad_input():
    check_bad_input("roi_pool", BAD)


def dims(*ranges):
    return [torch.export.Dim(name, min=least, max=most) for name, least, most in ranges]


class Pools(torch.nn.Module):
    """torchvision's three operators, of which each gives a second result that nothing takes."""

    def __init__(self):
        super().__init__()
        ops, settings = torchvisions(), ((2, 3), 0.25)
        self.pools = torch.nn.ModuleList(
            [ops.RoIPool(*settings), ops.PSRoIAlign(*settings, 2), ops.PSRoIPool(*settings)]
        )

    def forward(self, x, rois):
        return tuple(pool(x, rois) for pool in self.pools)


@needs_torch_tensorrt
def test_torchvisions_operators_are_plugins_under_every_extent():
    batch, count, height = dims(("n", 1, 8), ("k", 0, 50), ("h", 4, 40))
    shapes = {"x": {0: batch, 2: height}, "rois": {0: count}}
    with oracle.interpreted():
        compiled = oracle.ahead(Pools().eval(), roi_align_arguments(5, 2, 12, (9, 11)), shapes)
        assert compiled.plugin_counts() == {"roi_pool": 1, "ps_roi_align": 1, "ps_roi_pool": 1}
        for extents in ((5, 2, 9), (0, 1, 4), (33, 8, 40)):
            args = roi_align_arguments(*extents[:2], 12, (extents[2], 11))
            oracle.assert_same(compiled(*args), Pools()(*args))


@needs_torch_tensorrt
def test_the_other_doors_take_the_first_result_too(tmp_path):
    pytest.importorskip("onnxscript")
    args, device = roi_align_arguments(5, 2, 12, (9, 11)), "cuda" if torch.cuda.is_available() else "cpu"
    expected = dict.fromkeys(("roi_pool", "ps_roi_pool", "ps_roi_align"), 1)
    file = bridge.export_onnx(Pools().eval(), tuple(args), path=tmp_path / "pools.onnx", target="sm86")
    assert file.plugins == expected
    torch_tensorrt = flavour.detect().torch_tensorrt()
    door.register()
    with door.cross_compile(None if device == "cuda" else "sm86"):
        args = [tensor.to(device) for tensor in args]
        compiled = torch_tensorrt.compile(Pools().eval(), ir="dynamo", arg_inputs=args, min_block_size=1)
    assert bridge.report(compiled).plugin_counts() == expected


@needs_torch_tensorrt
def test_a_result_that_the_plugin_has_not():
    class Places(torch.nn.Module):
        def forward(self, x, rois):
            torchvisions()
            return torch.ops.torchvision.roi_pool(x, rois, 0.25, 2, 3)

    with pytest.raises(UnsupportedOpError, match="the model takes 2 results of it, and its plugin roi_pool gives 1"):
        bridge.compile(Places().eval(), tuple(roi_align_arguments(5, 2, 12, (9, 11))), target="sm86")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["roi_pool", "ps_roi_pool", "ps_roi_align"])
def test_cuda_is_the_reference(name, dtype):
    channels = 2 * 49 if name.startswith("ps") else 67
    for seed, size in enumerate(((25, 38), (1, 40), (90, 3))):
        x, rois = region_arguments(40, 2, channels, size, seed=seed)
        settings = {"sampling_ratio": 2} if name == "ps_roi_align" else {}
        check_cuda(OPS[name], dtype, x, rois, spatial_scale=0.25, **settings)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["roi_pool", "ps_roi_pool", "ps_roi_align"])
def test_cuda_regions_of_every_kind(name):
    """Those of torchvision's, of no image, of an image that is not there, and not finite ones."""
    x, pool = torch.randn(2, 98, 11, 17), getattr(bridge, name)
    good = torch.tensor(list(ROWS.values()))
    bad = torch.tensor([[image, *REGION[1:]] for image in (-1.0, 2.0, 1e30, math.nan)] + [[0, *REGION[1:]]] * 3)
    bad[-3, 1], bad[-2, 4], bad[-1, 3] = math.nan, math.inf, -math.inf
    y = pool(x.cuda(), torch.cat((good, bad)).cuda(), 7, 0.75).cpu()
    assert y[len(good) :].isnan().all()
    torch.testing.assert_close(y[: len(good)], pool(x, good, 7, 0.75), rtol=1e-5, atol=1e-5, equal_nan=True)
    empty = pool(torch.empty(0, 98, 4, 4, device="cuda"), torch.tensor([REGION], device="cuda"))
    assert empty.isnan().all() and len(empty) == 1


@pytest.mark.gpu(engines=True)
def test_engines_are_eager_under_every_extent(device):
    batch, count, height = dims(("n", 1, 8), ("k", 1, 50), ("h", 4, 40))
    shapes = {"x": {0: batch, 2: height}, "rois": {0: count}}
    example = tuple(tensor.to(device) for tensor in roi_align_arguments(5, 2, 12, (9, 11)))
    compiled = bridge.compile(Pools().eval(), example, dynamic_shapes=shapes)
    for seed, extents in enumerate(((5, 2, 9), (1, 1, 4), (50, 8, 40), (33, 3, 17))):
        args = [t.to(device) for t in roi_align_arguments(*extents[:2], 12, (extents[2], 11), seed=seed)]
        for actual, expected in zip(compiled(*args), Pools()(*args), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
