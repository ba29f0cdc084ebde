"""The pass that finds what models have in front of them: from bytes to normalised images."""

import itertools
import re
from importlib.util import find_spec

import oracle
import pytest
import torch
import torch.nn.functional as F
from programs import Function
from samples.preprocess import MEAN, STD, pixels

import bridge
from bridge.graph import capture
from bridge.passes import pass_names, rewrite, rewrite_graph

OP = torch.ops.bridge.preprocess.default
SIZE = (16, 20)
needs_torch_tensorrt = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")


def export(function, args, dims=None):
    return capture.export(Function(function).eval(), args, {}, {"args": dims} if dims else None)


def column(values, dtype=torch.float32):
    return torch.tensor(values, dtype=dtype).view(1, 3, 1, 1)


def bilinear(x, size=SIZE, **settings):
    return F.interpolate(x, size, mode="bilinear", **{"align_corners": False, **settings})


def resized(x):
    return bilinear(x.permute(0, 3, 1, 2).float())


def torchvisions(x):
    v2 = pytest.importorskip("torchvision.transforms.v2", reason="needs torchvision")
    steps = [v2.Resize(SIZE, antialias=True), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    return v2.Compose(steps)(x.permute(0, 3, 1, 2))


def normalised(x):
    x.sub_(column(MEAN)).div_(column(STD))
    return x


# Each takes [N, H, W, 3]; with what the call says of it.
FOUND = {
    "the usual one": (lambda x: (resized(x) / 255 - column(MEAN)) / column(STD), {}),
    "divided first": (lambda x: (bilinear(x.permute(0, 3, 1, 2) / 255.0) - column(MEAN)) / column(STD), {}),
    "normalised first": (
        lambda x: bilinear(((x / 255 - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2)),
        {},
    ),
    "multiplied": (lambda x: resized(x) * (1 / 127.5) - 1, {"std": [127.5], "mean": [127.5]}),
    "turned round": (lambda x: 1 - 0.5 * resized(x), {}),
    "in place": (lambda x: normalised(resized(x).div_(255)), {}),
    "torchvision": (torchvisions, {"antialias": True, "rounded": True}),
    "blue first": (lambda x: resized(x.flip(-1)) / 255 - column(MEAN), {"source": "bgr"}),
    "blue first, later": (lambda x: bilinear((x.permute(0, 3, 1, 2) - column((1, 2, 3))).flip(1)), {"source": "bgr"}),
    "half": (lambda x: resized(x).half() / 255 - column(MEAN, torch.float16), {"dtype": "float16"}),
    "bfloat16": (lambda x: ((resized(x) - 3.5) * 0.1).bfloat16(), {"dtype": "bfloat16"}),
    "planes": (lambda x: bilinear(x.float().div(255))[:, :, :1], {"layout": "nchw"}),
    "antialiased": (lambda x: bilinear(x.permute(0, 3, 1, 2).float(), antialias=True), {"antialias": True}),
    "bicubic": (
        lambda x: F.interpolate(x.permute(0, 3, 1, 2) / 255, SIZE, mode="bicubic") - 0.5,
        {"mode": "bicubic", "rounded": False},
    ),
    "bicubic, rounded": (
        lambda x: F.interpolate(x.permute(0, 3, 1, 2).float(), SIZE, mode="bicubic").round().clamp(0, 255).byte() / 255,
        {"mode": "bicubic", "rounded": True},
    ),
    "nearest": (lambda x: F.interpolate(x.permute(0, 3, 1, 2).float(), SIZE) / 255, {"mode": "nearest"}),
    "rounded": (lambda x: resized(x).round().to(torch.uint8).float() / 255, {"rounded": True}),
    "other uses of its result": (lambda x: (y := resized(x) / 255) + y.relu(), {"std": [255.0]}),
}


def images(name, seed=0, count=2):
    shape = (count, 3, 23, 37) if name == "planes" else (count, 23, 37, 3)
    return pixels(*shape, seed=seed)


def tolerance(name, y):
    """A rounding of levels may fall to either side, and 16 bits round at every step."""
    level = 1 / 0.22 / 255 if "rounded" in name or name == "torchvision" else 0
    return level + {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 0.2}[y.dtype]


@pytest.mark.parametrize("name", FOUND)
def test_found(name):
    write, expected = FOUND[name]
    program = export(write, (images(name),), ({0: torch.export.Dim("n", min=1, max=8)},))
    found, outcomes = rewrite(program, ["preprocess"])
    assert [outcome.replaced for outcome in outcomes] == [True], outcomes
    (call,) = found.graph.find_nodes(op="call_function", target=OP)
    assert {key: call.kwargs[key] for key in expected} == expected
    assert not [node for node in found.graph.nodes if "upsample" in str(node.target)]
    for seed, count in enumerate((1, 2, 5)):
        x = images(name, seed, count)
        y = write(x.clone())
        torch.testing.assert_close(found.module()(x), y, rtol=0, atol=tolerance(name, y))


def test_every_order_of_affine_steps():
    """Random steps before and after the resize, on either side of the permutation."""
    channel = torch.tensor([0.5, 2.0, 3.0])
    steps = [
        lambda x, c: x / 255,
        lambda x, c: x - c,
        lambda x, c: c * x,
        lambda x, c: x / c,
        lambda x, c: c - x,
        lambda x, c: 0.25 + x,
    ]
    for seed, order in enumerate(itertools.islice(itertools.permutations(steps, 4), 0, None, 37)):

        def write(x, order=order, seed=seed):
            x = x.float()
            for place, step in enumerate(order):
                if place == seed % 3:
                    x = x.permute(0, 3, 1, 2)
                if place == 3 - seed % 2:
                    x = bilinear(x)
                x = step(x, channel if place < seed % 3 else channel.view(3, 1, 1))
            return x

        x = images("", seed)
        found, (outcome,) = rewrite(export(write, (x,)), ["preprocess"])
        assert outcome.replaced, outcome
        torch.testing.assert_close(found.module()(x), write(x), rtol=1e-4, atol=1e-3)


def both(x):
    y = x.permute(0, 3, 1, 2).float()
    return bilinear(y), y.mean()


# With the reason, or "" where nothing resembles a chain.
STAYS = {
    "aligned corners": (lambda x: bilinear(x.permute(0, 3, 1, 2).float(), align_corners=True), "aligns corners"),
    "by a factor": (
        lambda x: F.interpolate(x.permute(0, 3, 1, 2).float(), scale_factor=0.7, mode="bilinear"),
        "by a factor, or to a size",
    ),
    "rows and columns swapped": (lambda x: bilinear(x.permute(0, 3, 2, 1).float()), "permutes axes as"),
    "mirrored": (lambda x: bilinear(x.permute(0, 3, 1, 2).flip(3).float()), "flips the images"),
    "shifted by place": (
        lambda x: bilinear(x.permute(0, 3, 1, 2).float() - torch.arange(37.0)),
        "a constant of shape .37., which is none of channels",
    ),
    "otherwise used": (lambda x: (resized(x), x.float().mean()), "uses the images otherwise too"),
    "used on the way": (both, "uses the images otherwise too, or something on the way"),
    "whole numbers": (lambda x: bilinear((x.permute(0, 3, 1, 2) + 3).float()), "with whole numbers"),
    "cut to whole numbers": (lambda x: resized(x).to(torch.uint8).float(), "converts to torch.uint8"),
    "bicubic beyond the levels": (
        lambda x: F.interpolate(x.permute(0, 3, 1, 2).float(), SIZE, mode="bicubic").round().to(torch.uint8) / 255,
        "converts to torch.uint8",
    ),
    "bicubic, clamped alone": (
        lambda x: F.interpolate(x.permute(0, 3, 1, 2).float(), SIZE, mode="bicubic").clamp(0, 255) / 255,
        "rounds levels that it does not clamp, or the reverse",
    ),
    "rounded results": (lambda x: (resized(x) / 255).round(), "rounds something else"),
    "four channels": (lambda x: resized(torch.cat((x, x[..., :1]), -1)), ""),
    "not bytes": (lambda x: bilinear(x.int().permute(0, 3, 1, 2).float() - 300).int(), "converts to torch.int32"),
    "twice": (lambda x: bilinear(resized(x), (5, 6)), None),
    "zero": (lambda x: resized(x) * 0, "its factors are 0"),
    "a softmax": (lambda x: bilinear(x.permute(0, 3, 1, 2).float().softmax(1)), ""),
}


@pytest.mark.parametrize("name", STAYS)
def test_near_misses_stay(name):
    write, reason = STAYS[name]
    x = images("")
    program = export(write, (x,))
    found, outcomes = rewrite(program, ["preprocess"])
    if reason is None:  # the first resize is the op's, the second stays
        assert len(found.graph.find_nodes(op="call_function", target=OP)) == 1
        torch.testing.assert_close(found.module()(x), write(x), rtol=1e-4, atol=1e-3)
        return
    assert found is program and not any(outcome.replaced for outcome in outcomes)
    if reason:
        (outcome,) = outcomes
        assert re.search(reason, outcome.what), outcome.what
    else:
        assert not outcomes


def test_images_of_floats_are_no_bytes():
    program = export(lambda x: (bilinear(x) - 1) / 2, (torch.rand(1, 3, 9, 8),))
    assert rewrite(program, ["preprocess"]) == (program, [])


def test_is_on_and_not_in_torch_tensorrts_own_compile():
    from bridge.passes import PASSES

    assert "preprocess" in pass_names(True)
    assert [each.name for each in PASSES if each.reads_bytes] == ["preprocess"]


class Camera(torch.nn.Module):
    """A model that takes a camera's bytes, as its authors wrote it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", column(MEAN))
        self.register_buffer("std", column(STD))
        self.conv = torch.nn.Conv2d(3, 4, 3)

    def forward(self, x):
        x = x.permute(0, 3, 1, 2).float() / 255
        x = F.interpolate(x, SIZE, mode="bilinear", align_corners=False)
        return self.conv((x - self.mean) / self.std)


@needs_torch_tensorrt
def test_one_engine_takes_a_cameras_bytes():
    batch, height = torch.export.Dim("n", min=1, max=8), torch.export.Dim("h", min=8, max=90)
    with oracle.interpreted(engines=True):
        model = Camera().eval()
        compiled = oracle.ahead(model, (images(""),), {"x": {0: batch, 1: height}})
        assert compiled.plugin_counts() == {"preprocess": 1}
        for count, rows in ((1, 9), (5, 80)):
            x = pixels(count, rows, 37, 3, seed=rows)
            oracle.assert_same(compiled(x), model(x), rtol=1e-4, atol=1e-4)


@needs_torch_tensorrt
def test_just_in_time():
    with oracle.interpreted(engines=True):
        model, x = Camera().eval(), images("")
        compiled = oracle.just_in_time(model)
        oracle.assert_same(compiled(x), model(x), rtol=1e-4, atol=1e-4)
        assert bridge.report(compiled).plugin_counts() == {"preprocess": 1}


def test_a_graph_of_another_device_stays():
    program = export(lambda x: resized(x) / 255, (images(""),))
    for node in program.graph.nodes:
        if "div" in node.name:
            node.meta["val"] = torch.empty(node.meta["val"].shape, device="meta")
    (outcome,) = rewrite_graph(program.graph, ["preprocess"])
    assert not outcome.replaced and "to another device" in outcome.what
