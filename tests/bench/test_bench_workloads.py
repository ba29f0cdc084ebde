"""Workloads of bridge bench: their bytes, operations, arguments and floors."""

import dataclasses
import json

import pytest
import torch
from bench_rows import CEILINGS, recorded, row

from bridge.base.modules import modules_below
from bridge.bench import baseline, ceilings, measure, report, workloads
from bridge.bench.workload import DTYPES, Workload
from bridge.bench.workloads import WORKLOADS
from bridge.bench.workloads.deform_conv2d import DeformConv2d
from bridge.bench.workloads.detection.roi_align import RoiAlign
from bridge.bench.workloads.ms_deform_attn import MsDeformAttn
from bridge.bench.workloads.ms_deform_attn_fused import MsDeformAttnFused
from bridge.bench.workloads.relu import Relu
from bridge.bench.workloads.rope import Rope
from bridge.core.op import OPS
from bridge.core.signature import NAMESPACE
from bridge.engine.timing import Timing

KINDS = {"ms_deform_attn": MsDeformAttn, "ms_deform_attn_fused": MsDeformAttnFused}


def test_every_op_has_workloads_in_the_file_of_its_name():
    of_files = {
        name: {each.op for each in module.workloads()} for name, module in modules_below("bridge.bench.workloads")
    }
    own = [name for name, op in OPS.items() if op.namespace == NAMESPACE]  # other tests may have generated some
    assert of_files == {name: {name} for name in own}
    for name, module in modules_below("bridge.bench.workloads"):
        assert {each.op for each in getattr(module, "PEERS", ())} <= {name}


def test_bytes_and_operations_by_hand():
    assert Relu("relu", "x", "bfloat16", count=1000).bytes() == 4000
    rope = Rope("rope", "x", "float16", batch=2, seq=3, heads=(4, 2), head_dim=8)
    assert rope.bytes() == 2 * (2 * 3 * 6 * 8) * 2 + 2 * 3 * 4 * 4
    conv = DeformConv2d("deform_conv2d", "x", "float32", batch=2, channels=4, size=(5, 6), out_channels=8, groups=2)
    positions = 2 * 5 * 6
    assert conv.flops() == 2 * positions * 8 * 2 * 9
    assert conv.bytes() == 4 * (2 * 4 * 30 + positions * (27 + 8) + 8 * (2 * 9 + 1))
    plain = dataclasses.replace(conv, modulated=False, offset_groups=2)
    assert plain.bytes() == 4 * (2 * 4 * 30 + positions * (36 + 8) + 8 * (2 * 9 + 1))
    attention = {"batch": 3, "heads": 2, "head_dim": 8, "levels": ((5, 6), (2, 3)), "points": 4}
    encoder = MsDeformAttn("ms_deform_attn", "x", "float16", **attention)
    assert encoder.bytes() == 2 * 3 * (36 * 16 + 36 * 2 * (8 + 8 * 3)) + 2 * 24
    decoder = MsDeformAttnFused("ms_deform_attn_fused", "x", "float16", queries=1, **attention)
    assert decoder.bytes() == 2 * 3 * (32 * 16 + 2 * (8 + 8 * 3) + 4) + 2 * 24

    roi_align = RoiAlign("roi_align", "x", "float16", channels=8, size=(5, 6), count=3, output_size=2)
    assert roi_align.bytes() == 2 * (2 * 8 * 30 + 3 * 8 * 4) + 3 * 5 * 4
    few = RoiAlign("roi_align", "x", "float32", channels=3, count=2, output_size=2, sampling_ratio=1)
    assert few.bytes() == 4 * 3 * (4 * 2 * 4 + 2 * 4) + 2 * 5 * 4


def test_regions_lie_in_the_map_and_in_every_image():
    (workload,) = (w for w in WORKLOADS if w.name == "one image, channels-last")
    (x, rois), settings = RoiAlign("roi_align", "x", "float16", channels=8, channels_last=True).arguments("cpu")
    boxes = rois[:, 1:] * settings["spatial_scale"]
    assert workload.batch == 1 and x.is_contiguous(memory_format=torch.channels_last)
    assert boxes.min() >= 0 and boxes[:, 2].max() <= 304 and boxes[:, 3].max() <= 200
    assert set(rois[:, 0].tolist()) == {0, 1} and (boxes[:, 2:] - boxes[:, :2]).min() >= 6.99


def test_a_strided_convolution_has_its_extents():
    conv = DeformConv2d(
        "deform_conv2d", "x", "float16", size=(101, 153), stride=(2, 1), padding=(1, 2), dilation=(2, 1)
    )
    assert conv.out_size() == (50, 155)


def test_workloads_of_deform_conv2d_are_told_apart_and_few_enough():
    found = [w for w in WORKLOADS if w.op == "deform_conv2d"]
    assert len({(w.name, w.dtype) for w in found}) == len(found)
    assert len({dataclasses.replace(w, name="") for w in found if w.group == "default"}) > 40
    narrow = [w for w in found if w.channels // w.offset_groups <= 16]
    assert {w.channels // w.offset_groups for w in narrow} >= {1, 2, 4, 8, 16} and any(not w.modulated for w in narrow)


@pytest.mark.parametrize(
    "workload", [w for w in WORKLOADS if w.bytes() < 1e7 and w.captured], ids=lambda w: f"{w.op} {w.name} {w.dtype}"
)
def test_arguments_fit_the_op(workload, monkeypatch):
    monkeypatch.setattr(Workload, "_random", lambda self, device, *shape: torch.empty(shape, dtype=DTYPES[self.dtype]))
    args, settings = workload.arguments(torch.device("cpu"))
    result = measure.OPS[workload.op].overload(*(t if t is None else t.to("meta") for t in args), **settings)
    (first, *_) = result if isinstance(result, tuple) else (result,)
    assert first.dtype == DTYPES[workload.dtype]
    if isinstance(workload, DeformConv2d):
        assert tuple(first.shape[2:]) == workload.out_size()


def test_the_floor_is_the_largest_of_five():
    def floor(workload, traffic=None, gathered=0):
        found = ceilings.floors(workload, CEILINGS, traffic, gathered)
        return ceilings.binding(found), max(found.values())

    assert floor(Relu("relu", "x", "float16", count=10**9)) == ("memory", pytest.approx((4e9 - 5e7) / 4e6))
    held = Relu("relu", "x", "float16", count=10**7)  # by the L2, from one call to the next
    assert floor(held) == ("L2", pytest.approx(4e7 / 8e6)) and floor(held, 100) == ("launch", 1.0)
    assert floor(Relu("relu", "x", "float16", count=1)) == ("launch", 1.0)
    (large,) = (w for w in WORKLOADS if (w.name, w.dtype) == ("large", "float16"))
    assert floor(large) == ("arithmetic", pytest.approx(large.flops() / 8e8))
    assert floor(large, gathered=10**10) == ("L1", pytest.approx(1e10 / 3e7))
    without = {name: value for name, value in CEILINGS.items() if name != "l1_bytes_per_us"}
    assert ceilings.floors(large, without, gathered=10**10)["L1"] == 0
    # In float32 on tensor cores, three products of TF32 for one, where they are the faster unit.
    (large,) = (w for w in WORKLOADS if (w.name, w.dtype) == ("large", "float32"))
    assert floor(large) == ("arithmetic", pytest.approx(large.flops() / 1e8))
    without = {name: value for name, value in CEILINGS.items() if "tf32" not in name}
    assert ceilings.rate("float32", without) == 5e7 and ceilings.rate("float16", CEILINGS) == 8e8


def test_recorded_floors_are_floors():
    """No row of a recorded run took less than its floor, but for what the copy and a time differ by in one run."""
    run = json.loads(baseline.path_of("NVIDIA H200").read_text())
    over = [row for row in run["rows"] if row["floor_us"] > (1.02 if row["floor"] == "memory" else 1) * row["us"]]
    assert list(map(report.key_of, over)) == []


def test_no_launch_is_below_the_floor_of_a_launch():
    rows = [
        row("one", 0.8, floor="launch", floor_us=1.0),
        row("two", 3.0, floor="launch", floor_us=1.0),
        row("three", 3.0, floor="L2", floor_us=1.5),
    ]
    found = ceilings.with_reached(recorded(*rows))
    assert [row["floor_us"] for row in found["rows"]] == [0.8, 0.8, 1.5] and found["ceilings"]["launch_us"] == 0.8
    rows[1]["peers"]["eager"]["us"] = 0.7  # that a peer took less is a floor's end, too
    found = ceilings.with_reached(recorded(*rows))
    assert [row["floor_us"] for row in found["rows"]] == [0.7, 0.7, 1.5]
    assert ceilings.with_reached(recorded(row())) == recorded(row())  # of a run without such rows


def test_what_a_row_reaches_in_the_l2_is_its_rate():
    rows = [
        row("one", 4.0, floor="L2", floor_us=5.0, bytes=4 * 10**7),
        row("two", 9.0, floor="L2", floor_us=6.0, bytes=48 * 10**6),
        row("three", 9.0, floor="L2", floor_us=5.5, bytes=44 * 10**6, flops=4 * 10**9),
        row("four", 9.0, floor="memory", floor_us=8.0),
    ]
    rows[1]["peers"]["eager"]["us"] = 1.0  # which may touch fewer bytes
    run = recorded(*rows)
    rate = run["ceilings"]["l2_bytes_per_us"]
    found = ceilings.with_reached(run)
    assert found["ceilings"]["l2_bytes_per_us"] == pytest.approx(rate / 0.8)
    assert [row["floor"] for row in found["rows"]] == ["L2", "L2", "arithmetic", "memory"]
    assert [row["floor_us"] for row in found["rows"]] == pytest.approx([4.0, 4.8, 5.0, 8.0])
    assert ceilings.with_reached(found) == found


def test_traffic_is_what_is_touched():
    """Few points, and regions that lie on each other, read less than the whole map; by hand and one by one."""
    torch.manual_seed(0)
    for op, kind in KINDS.items():
        shapes = {"heads": 2, "head_dim": 8, "levels": ((5, 6), (2, 3)), "points": 3}
        workload = kind(op, "x", "float16", batch=2, queries=2, **shapes)
        args, settings = workload.arguments(torch.device("cpu"))
        locations = (
            args[3] if op == "ms_deform_attn" else args[3][:, :, None, :, None] + args[4] / args[1].flip(1)[:, None]
        )
        seen = set()
        for n, q, h, level, p in torch.cartesian_prod(*map(torch.arange, locations.shape[:5])).tolist():
            height, width = workload.levels[level]
            x, y = (locations[n, q, h, level, p].float() * torch.tensor([width, height]) - 0.5).floor().int().tolist()
            corners = [(x + i, y + j) for i in (0, 1) for j in (0, 1)]
            seen |= {(n, h, level, *c) for c in corners if 0 <= c[0] < width and 0 <= c[1] < height}
        whole = workload.bytes() - 2 * 36 * 2 * 8 * 2
        assert workload.traffic(args, settings) == whole + len(seen) * 8 * 2 and len(seen) < 2 * 36 * 2

    regions = RoiAlign("roi_align", "x", "float16", channels=8, size=(20, 24), count=3, output_size=2)
    settings = {"spatial_scale": 0.25}
    rois = torch.tensor([[0, 4.0, 4, 20, 20], [0, 4, 4, 20, 20], [1, 80, 60, 400, 400]])
    # Both regions sample at 1, 2, 3 and 4, and read rows and columns 1 to 5.
    assert regions.traffic([None, rois[:2]], settings) - regions._bytes(0) == 25 * 8 * 2
    assert regions.traffic([None, rois], settings) > regions.traffic([None, rois[:2]], settings)
    every = RoiAlign("roi_align", "x", "float16", batch=1, channels=8, size=(20, 24), count=1, sampling_ratio=0)
    assert every.traffic([None, torch.tensor([[0, -8.0, -8, 200, 200]])], settings) == every._bytes(20 * 24)


def test_the_copy_is_measured_again_where_memory_bounds(monkeypatch):
    monkeypatch.setattr(ceilings, "measure_copy", lambda: 3.0e6)
    (large,) = (w for w in WORKLOADS if (w.name, w.dtype) == ("large", "float16"))
    many, one = (Relu("relu", "x", "float16", count=count) for count in (10**9, 1))
    assert ceilings.refreshed(many, CEILINGS) == CEILINGS | {"bytes_per_us": 3.0e6}
    assert ceilings.refreshed(large, CEILINGS) == ceilings.refreshed(one, CEILINGS) == CEILINGS


def test_the_copy_is_the_best_of_sizes_and_ways(monkeypatch):
    """Without a GPU, on small tensors, with times made up."""
    seen = []

    def time_call(call, arguments):
        ((source, target),) = arguments
        target.fill_(0)
        call(arguments[0])
        seen.append((source.numel(), bool((target == -source).all()), bool((target == source).all())))
        return Timing(*[100.0 if len(seen) != 4 else 10.0] * 4)

    randn = torch.randn
    monkeypatch.setattr(ceilings, "_COPIES", (8, 32, 16))
    monkeypatch.setattr(ceilings, "time_call", time_call)
    monkeypatch.setattr(torch, "randn", lambda *shape, device: randn(*shape))
    assert ceilings.measure_copy() == 2 * 4 * 8 / 10.0
    ways = [(True, False), (False, True)] * 2  # a kernel's, which negates, and the driver's, for two distances
    assert seen == [(size, *way) for size in (8, 32, 16) for way in ways]


def test_workloads_are_selected_by_op_name_and_group():
    assert {w.op for w in workloads.select(["rope"])} == {"rope"}
    assert {w.group for w in workloads.select()} == {"default"}
    assert {w.name for w in workloads.select(["rope"], ["decode, 3"])} == {"decode, 32"}
    assert workloads.select(["rope"], groups=("growth",))[-1].seq == 65536
    assert len({(w.op, w.name, w.dtype) for w in WORKLOADS}) == len(WORKLOADS)


# Boxes


def boxes_of(name, **changes):
    (workload,) = (w for w in WORKLOADS if (w.op, w.name, w.dtype) == ("nms", name, "float32"))
    return dataclasses.replace(workload, **changes)


def test_nms_has_few_and_many_boxes_that_stay():
    sizes = {(w.count, "few" in w.name) for w in workloads.select(["nms"], ["stay"])}
    assert sizes == {(count, few) for count in (1000, 10_000, 100_000) for few in (False, True)}
    torch.manual_seed(0)
    for name, least, most in (("1000 boxes, few stay", 10, 200), ("1000 boxes, many stay", 900, 1000)):
        workload = boxes_of(name)
        args, settings = workload.arguments(torch.device("cpu"))
        kept = measure.OPS["nms"].overload(*args, **settings)
        assert least <= len(kept) <= most and measure.compare(workload, args, settings)["right"]
    assert boxes_of("1000 boxes, few stay").bytes() == 1000 * 5 * 4


def test_the_queries_of_an_encoder_are_the_pixels():
    """With offsets of zero each samples itself at its own level."""
    workload = MsDeformAttnFused(
        "ms_deform_attn_fused", "x", "float32", heads=1, head_dim=4, levels=((3, 5),), points=1
    )
    args, _ = workload.arguments(torch.device("cpu"))
    args[4].zero_()
    torch.testing.assert_close(measure.OPS[workload.op].overload(*args), args[0][:, :, 0])


# On a GPU


@pytest.mark.gpu
def test_measured_ceilings(device):
    found = ceilings.measure_ceilings()
    assert set(found) == set(CEILINGS)
    assert 1e4 < found["bytes_per_us"] < 1e8  # 10 GB/s to 100 TB/s
    assert 0.2 < found["launch_us"] < 100
    assert found["bytes_per_us"] / 2 < found["l2_bytes_per_us"] and found["l2_bytes"] > 1e6
    assert 1e5 < found["flops_per_us_float32"] < found["flops_per_us_tf32"] < found["flops_per_us_float16"] < 1e11
