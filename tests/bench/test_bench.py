"""bridge bench: what it counts, compares and says; on a GPU also what it measures."""

import copy
import dataclasses
import json
import re
import sys
from importlib.util import find_spec

import pytest
import torch
from own_ops import forgotten

from bridge import cli
from bridge.base.modules import modules_of
from bridge.bench import baseline, ceilings, measure, peers, plots, report, workloads
from bridge.bench.peer import Peer, plain
from bridge.bench.workloads import WORKLOADS
from bridge.bench.workloads.deform_conv2d import DeformConv2d
from bridge.bench.workloads.ms_deform_attn import MsDeformAttn
from bridge.bench.workloads.ms_deform_attn_fused import MsDeformAttnFused
from bridge.bench.workloads.relu import Relu
from bridge.bench.workloads.roi_align import RoiAlign
from bridge.bench.workloads.rope import Rope
from bridge.core.op import OPS
from bridge.engine.timing import Timing

needs_matplotlib = pytest.mark.skipif(find_spec("matplotlib") is None, reason="needs matplotlib")
KINDS = {"ms_deform_attn": MsDeformAttn, "ms_deform_attn_fused": MsDeformAttnFused}
CEILINGS = {
    "bytes_per_us": 4.0e6,
    "l2_bytes_per_us": 8.0e6,
    "l2_bytes": 5e7,
    "flops_per_us_float32": 5e7,
    "flops_per_us_float16": 8e8,
    "flops_per_us_bfloat16": 8e8,
    "flops_per_us_tf32": 3e8,
    "launch_us": 1.0,
}


def row(name="large", us=100.0, **changes):
    return {
        "op": "relu",
        "workload": name,
        "dtype": "float16",
        "us": us,
        "low_us": us * 0.99,
        "high_us": us * 1.01,
        "cold_us": us,
        "bytes": 1000,
        "flops": 0,
        "floor_us": 80.0,
        "error": 1e-4,
        "pytorch_error": 2e-4,
        "right": True,
        "peers": {"eager": {"us": 2 * us, "low_us": us, "high_us": us, "bound": False}},
    } | changes


def recorded(*rows, gpu="NVIDIA A GPU"):
    head = {"schema": 1, "gpu": gpu, "driver": "1.2", "date": "2026-01-02", "versions": {"torch": "2.11"}}
    return head | {"ceilings": CEILINGS, "rows": list(rows)}


# Workloads


def test_every_op_has_workloads_in_the_file_of_its_name():
    of_files = {name: {each.op for each in module.workloads()} for name, module in modules_of("bridge.bench.workloads")}
    assert of_files == {name: {name} for name in OPS}
    for name, module in modules_of("bridge.bench.workloads"):
        assert {each.op for each in getattr(module, "PEERS", ())} <= {name}


def test_bytes_and_operations_by_hand():
    assert Relu("relu", "x", "bfloat16", count=1000).bytes() == 4000
    rope = Rope("rope", "x", "float16", batch=2, seq=3, heads=(4, 2), head_dim=8)
    assert rope.bytes() == 2 * (2 * 3 * 6 * 8) * 2 + 2 * 3 * 4 * 4
    conv = DeformConv2d("deform_conv2d", "x", "float32", batch=2, channels=4, size=(5, 6), out_channels=8, groups=2)
    positions = 2 * 5 * 6
    assert conv.flops() == 2 * positions * 8 * 2 * 9
    assert conv.bytes() == 4 * (2 * 4 * 30 + positions * (27 + 8) + 8 * (2 * 9 + 1))
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


@pytest.mark.parametrize("name", ["torchvision", "inductor"])
def test_peers_of_roi_align_compute_what_it_does(name, monkeypatch):
    pytest.importorskip("torchvision", reason="needs torchvision")
    workload = RoiAlign("roi_align", "x", "float32", channels=3, size=(40, 50), count=5)
    torch.manual_seed(0)
    args, settings = workload.arguments("cpu")
    (peer,) = (peer for peer in peers.PEERS if (peer.op, peer.name) == ("roi_align", name))
    monkeypatch.setattr("bridge.bench.workloads.roi_align.compiled", plain)  # inductor takes its time
    expected = measure.OPS["roi_align"].overload(*args, **settings)
    with torch.compiler.set_stance("force_eager"):  # torchvision compiles it, too
        found = peer.prepare(workload, settings)(args)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_errors_of_roi_align_are_measured_with_all_images_at_once():
    workload = RoiAlign("roi_align", "x", "float16", channels=8, size=(40, 50), count=9, channels_last=True)
    torch.manual_seed(0)
    found = measure.compare(workload, *workload.arguments("cpu"))
    assert found["right"] and found["error"] < 1e-2


def test_a_strided_convolution_has_its_extents():
    conv = DeformConv2d(
        "deform_conv2d", "x", "float16", size=(101, 153), stride=(2, 1), padding=(1, 2), dilation=(2, 1)
    )
    assert conv.out_size() == (50, 155)


@pytest.mark.parametrize(
    "workload", [w for w in WORKLOADS if w.bytes() < 2e7 and w.captured], ids=lambda w: f"{w.op} {w.name}"
)
def test_arguments_fit_the_op(workload):
    args, settings = workload.arguments(torch.device("cpu"))
    result = measure.OPS[workload.op].overload(*(t.to("meta") for t in args), **settings)
    (first, *_) = result if isinstance(result, tuple) else (result,)
    assert first.dtype == args[0].dtype
    if isinstance(workload, DeformConv2d):
        assert tuple(first.shape[2:]) == workload.out_size()


def test_the_floor_is_the_largest_of_four():
    def floor(workload, traffic=None):
        found = ceilings.floors(workload, CEILINGS, traffic)
        return ceilings.binding(found), max(found.values())

    assert floor(Relu("relu", "x", "float16", count=10**9)) == ("memory", pytest.approx((4e9 - 5e7) / 4e6))
    held = Relu("relu", "x", "float16", count=10**7)  # by the L2, from one call to the next
    assert floor(held) == ("L2", pytest.approx(4e7 / 8e6)) and floor(held, 100) == ("launch", 1.0)
    assert floor(Relu("relu", "x", "float16", count=1)) == ("launch", 1.0)
    (large,) = (w for w in WORKLOADS if (w.name, w.dtype) == ("large", "float16"))
    assert floor(large) == ("arithmetic", pytest.approx(large.flops() / 8e8))
    # In float32 on tensor cores, three products of TF32 for one, where they are the faster unit.
    (large,) = (w for w in WORKLOADS if (w.name, w.dtype) == ("large", "float32"))
    assert floor(large) == ("arithmetic", pytest.approx(large.flops() / 1e8))
    without = {name: value for name, value in CEILINGS.items() if "tf32" not in name}
    assert ceilings.rate("float32", without) == 5e7 and ceilings.rate("float16", CEILINGS) == 8e8


def test_recorded_floors_by_todays_rule(monkeypatch):
    """The rows that were above 100 % of their floors on an H200, with a cautious rate of its L2."""
    monkeypatch.setattr(MsDeformAttn, "_random", lambda self, device, *shape: torch.zeros(shape))  # of no account here
    recorded = json.loads(baseline.path_of("NVIDIA H200").read_text())
    limits = recorded["ceilings"] | {"l2_bytes_per_us": 7e6, "l2_bytes": 5e7, "flops_per_us_tf32": 4e8}
    known = {(w.op, w.name, w.dtype): w for w in WORKLOADS}
    above = [row for row in recorded["rows"] if row["floor_us"] > row["us"]]
    assert len(above) == 3
    for row in above:
        workload = known[report.key_of(row)]
        args, settings = workload.arguments(torch.device("cpu")) if workload.op != "deform_conv2d" else ([], {})
        found = ceilings.floors(workload, limits, workload.traffic(args, settings) if args else None)
        assert max(found.values()) <= row["us"], (row["op"], row["workload"], found)


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
    assert ceilings.measure_copy() == 2 * 4 * 32 / 10.0
    ways = [(True, False), (False, True)]  # a kernel's, which negates, and the driver's
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
    sizes = {(w.count, "few" in w.name) for w in workloads.select(["nms"])}
    assert sizes == {(count, few) for count in (1000, 10_000, 100_000) for few in (False, True)}
    torch.manual_seed(0)
    for name, least, most in (("1000 boxes, few stay", 10, 200), ("1000 boxes, many stay", 900, 1000)):
        workload = boxes_of(name)
        args, settings = workload.arguments(torch.device("cpu"))
        kept = measure.OPS["nms"].overload(*args, **settings)
        assert least <= len(kept) <= most and measure.compare(workload, args, settings)["right"]
    assert boxes_of("1000 boxes, few stay").bytes() == 1000 * 5 * 4


@pytest.mark.parametrize("wrong", ["one too few", "one too many", "another order", "the better one dropped"])
def test_wrong_boxes_are_found(wrong):
    torch.manual_seed(0)
    workload = boxes_of("1000 boxes, few stay", count=200, objects=12)
    args, settings = workload.arguments(torch.device("cpu"))
    kept = measure.OPS["nms"].overload(*args, **settings)
    dropped = next(place for place in args[1].argsort(descending=True).tolist() if place not in kept.tolist())
    changed = {
        "one too few": kept[:-1],
        "one too many": torch.cat((kept, torch.tensor([dropped]))),
        "another order": kept.flip(0),
        "the better one dropped": torch.where(kept == kept[0], dropped, kept),
    }[wrong]
    assert workload.errors(args, settings, kept)["right"]
    assert not workload.errors(args, settings, changed)["right"]
    assert workload.difference([kept], [kept]) == 0 and (workload.difference([kept], [changed]) > 0) == (
        wrong != "another order"
    )


def test_the_peer_of_nms_keeps_the_same(monkeypatch):
    pytest.importorskip("torchvision", reason="needs torchvision")
    calls = []
    monkeypatch.setattr(measure, "time_loop", lambda call: calls.append(call()) or Timing(1.0, 1.0, 1.0, 0.0))
    monkeypatch.setattr(measure, "time_call", lambda *_: pytest.fail("a CUDA graph cannot hold it"))
    torch.manual_seed(0)
    workload = boxes_of("1000 boxes, few stay")
    args, settings = workload.arguments(torch.device("cpu"))
    (peer,) = (peer for peer in peers.select(["torchvision"]) if peer.op == "nms")
    found = measure._measure_peer(peer, workload, args, settings)
    assert found["us"] == 1 and found["difference"] <= 0.01 and len(calls) == 1


# Errors


def test_errors_are_those_of_both_against_a_wider_dtype():
    workload = DeformConv2d("deform_conv2d", "x", "float16", batch=2, channels=8, size=(9, 7), out_channels=8)
    torch.manual_seed(0)
    found = measure.compare(workload, *workload.arguments(torch.device("cpu")))
    assert found["right"] and 0 < found["error"] < 1e-2 and 0 < found["pytorch_error"] < 1e-2


ATTENTION = [
    kind(op, "x", "float32", batch=2, queries=queries, heads=2, head_dim=8, levels=((5, 6), (2, 3)), points=3)
    for op, kind in KINDS.items()
    for queries in (0, 7)
]


@pytest.mark.parametrize("workload", ATTENTION, ids=lambda w: f"{w.op} {w.queries}")
def test_every_image_has_its_own_points(workload):
    """As large workloads are compared: one image at a time, with the levels of all."""
    torch.manual_seed(0)
    args, settings = workload.arguments(torch.device("cpu"))
    assert measure.compare(workload, args, settings)["right"]
    (expected,) = measure.outputs_of(measure.OPS[workload.op].overload(*args))
    for index in (0, 1):
        part = measure._image(args, workload.batched(), index)
        torch.testing.assert_close(measure.OPS[workload.op].overload(*part), expected[index : index + 1])


@pytest.mark.parametrize("workload", ATTENTION, ids=lambda w: f"{w.op} {w.queries}")
def test_the_peers_of_attention_compute_what_it_does(workload):
    args, settings = workload.arguments(torch.device("cpu"))
    expected = measure.OPS[workload.op].overload(*args)
    for name in ("eager", "unfused") if workload.op.endswith("fused") else ("eager",):
        (peer,) = (peer for peer in peers.PEERS if (peer.op, peer.name) == (workload.op, name))
        torch.testing.assert_close(peer.prepare(workload, settings)(args), expected)


def test_the_queries_of_an_encoder_are_the_pixels():
    """With offsets of zero each samples itself at its own level."""
    workload = MsDeformAttnFused(
        "ms_deform_attn_fused", "x", "float32", heads=1, head_dim=4, levels=((3, 5),), points=1
    )
    args, _ = workload.arguments(torch.device("cpu"))
    args[4].zero_()
    torch.testing.assert_close(measure.OPS[workload.op].overload(*args), args[0][:, :, 0])


def test_a_wrong_result_is_found(monkeypatch):
    class Wrong:
        run = measure.OPS["relu"].run

        @staticmethod
        def overload(x, **settings):
            return measure.OPS["rope"] and x.clone().index_fill_(0, torch.tensor([3]), 9.0)

    workload = Relu("relu", "x", "float32", count=100)
    args, settings = workload.arguments(torch.device("cpu"))
    monkeypatch.setitem(measure.OPS, "relu", Wrong)
    assert not measure.compare(workload, args, settings)["right"]


# Peers


def test_peers_compute_what_the_op_does():
    for workload in (w for w in WORKLOADS if w.bytes() < 2e6 or w.name == "decode, 4"):
        args, settings = workload.arguments(torch.device("cpu"))
        if workload.op not in ("relu", "rope") or "interleaved" in workload.name:
            continue
        args = [t.float() for t in args]
        expected = measure.OPS[workload.op].overload(*args, **settings)
        (eager,) = (peer for peer in peers.PEERS if peer.op == workload.op and peer.name == "eager")
        torch.testing.assert_close(eager.prepare(workload, settings)(args), expected)


@pytest.mark.parametrize(("interleaved", "layout"), [(False, "bhsd"), (True, "bshd"), (True, "bhsd")])
def test_the_eager_rope_has_every_style(interleaved, layout):
    workload = Rope("rope", "x", "float32", batch=2, seq=5, head_dim=8, interleaved=interleaved, layout=layout)
    args, settings = workload.arguments(torch.device("cpu"))
    (eager,) = (peer for peer in peers.PEERS if (peer.op, peer.name) == ("rope", "eager"))
    torch.testing.assert_close(eager.prepare(workload, settings)(args), measure.OPS["rope"].overload(*args, **settings))


def test_a_peer_that_is_not_installed_is_reported(monkeypatch):
    def fail(module):
        raise ImportError(f"No module named {module!r}\nand more")

    monkeypatch.setattr("bridge.bench.peer.import_module", fail)
    (peer,) = (peer for peer in peers.select(["mmcv"]) if peer.op == "deform_conv2d")
    workload = next(w for w in WORKLOADS if w.op == "deform_conv2d")
    assert measure._measure_peer(peer, workload, [], {}) == {
        "missing": "ImportError: No module named 'mmcv.ops.modulated_deform_conv'"
    }


def test_a_peer_is_compared_with_ours(monkeypatch):
    workload = Rope("rope", "x", "float32", batch=2, seq=3, heads=(4, 2), head_dim=8)
    args, settings = workload.arguments(torch.device("cpu"))
    before = [t.clone() for t in args]
    monkeypatch.setattr(measure, "time_call", lambda call, arguments: Timing(1.0, 1.0, 1.0, 0.0))

    def measured(answer, **changes):
        return measure._measure_peer(Peer("p", "rope", lambda *_: answer, **changes), workload, args, settings)

    def ours(given):
        return measure.OPS["rope"].overload(*given, **settings)

    def over_its_arguments(given):
        q, k = ours(given)
        given[0].fill_(7), given[1].fill_(7)
        return q.flatten(0, 1), 1.25 * k.flatten(0, 1)

    found = measured(over_its_arguments)
    assert 0.2 < found["difference"] <= 0.25 + 1e-6 and found["us"] == 1
    assert all(map(torch.equal, args, before))
    assert "computes something else" in measured(lambda given: tuple(given[:2]))["missing"]
    assert "computes something else" in measured(lambda given: tuple(t * float("nan") for t in ours(given)))["missing"]
    late = measured(lambda given: (ours(given)[0], ours(given)[1] * float("nan")))
    assert "computes something else" in late["missing"]
    assert "not [[2, 3, 4, 8], [2, 3, 2, 8]]" in measured(lambda given: ours(given)[:1])["missing"]
    assert "difference" not in measured(lambda given: None, bound=True)


def test_a_peer_that_ignores_strides_gets_none():
    (peer,) = (peer for peer in peers.select(["mmcv"]) if peer.op == "deform_conv2d")
    workload = next(w for w in WORKLOADS if w.name == "small, channels-last")
    assert "channels-last" in measure._measure_peer(peer, workload, [], {})["missing"]


def test_growth_has_the_peers_that_are_named_alone(capsys, monkeypatch):
    beside = []
    monkeypatch.setattr(measure, "run", lambda *rest, beside_growth: beside.append(beside_growth) or recorded())
    command(capsys, "relu", "--growth")
    command(capsys, "relu", "--growth", "--peers", "eager")
    assert beside == [False, True]
    monkeypatch.undo()
    monkeypatch.setattr(measure, "gpu", lambda: "NVIDIA A GPU")
    for name, value in (("measure_ceilings", dict), ("environment", dict), ("refreshed", lambda *_: {})):
        monkeypatch.setattr(measure, name, value)
    monkeypatch.setattr(measure, "measure_workload", lambda workload, others, _: (workload.group, len(others)))
    chosen = workloads.select(["rope"], [], ("default", "growth"))
    rows = measure.run(chosen, peers.PEERS, lambda _: None, beside_growth=False)["rows"]
    assert set(rows) == {("default", len(peers.PEERS)), ("growth", 0)}


# Tables, baselines


def test_the_table_shows_times_peers_and_what_is_missing():
    run = recorded(row(peers=row()["peers"] | {"mmcv": {"missing": "not installed"}}), row("wrong", right=False))
    text = report.table(run)
    assert "NVIDIA A GPU, driver 1.2, 2026-01-02" in text and "4.00 TB/s" in text
    assert "80%" in text and "eager 200.0 (2.00x)" in text
    far = row(peers={"mmcv": {"us": 150.0, "bound": False, "difference": 0.31}})
    assert "mmcv 150.0 (1.50x, differs by 0.31)" in report.table(recorded(far))
    assert "mmcv: not installed" in text and "WRONG: relu, wrong, float16" in text


def test_no_share_is_above_all_of_the_floor():
    """Of a run whose ceilings say less than what was reached, as older ones may."""
    text = report.table(recorded(row("slow"), row("fast", us=79.0), row("bound", floor="L2")))
    shares = [line.split()[-5:] for line in text.splitlines() if line.startswith("relu")]
    assert "80%" in text and "101%" not in text and "80.00 L2" in text, shares
    assert "no floor: the ceilings of this run are lower than what these reached\n  relu, fast, float16" in text


def test_a_baseline_flags_what_is_slower_missing_or_wrong():
    before = recorded(row("a"), row("b"), row("c"), row("d"))
    run = recorded(row("a", 104.0), row("b", 106.0), row("d", right=False))
    assert report.regressions(run, before) == [
        "relu, b, float16: 106.00 us, the baseline 100.00 us",
        "relu, c, float16: not in this run",
        "relu, d, float16: wrong, error 1.0e-04",
    ]
    assert not report.regressions(before, copy.deepcopy(before))


def test_the_spread_of_the_baseline_is_noise():
    before = recorded(row("a", low_us=90.0, high_us=120.0))
    assert not report.regressions(recorded(row("a", 129.0)), before)
    assert report.regressions(recorded(row("a", 131.0)), before)


def test_a_baseline_of_another_gpu_is_refused():
    with pytest.raises(ValueError, match="the baseline is of NVIDIA B, and this run of NVIDIA A GPU"):
        report.regressions(recorded(), recorded(gpu="NVIDIA B"))
    with pytest.raises(ValueError, match="schema 0"):
        report.regressions(recorded(), recorded() | {"schema": 0})


# The command


def command(capsys, *arguments):
    code = cli.main(["bench", *map(str, arguments)])
    return code, *capsys.readouterr()


def test_a_run_can_be_shown_and_compared_without_a_gpu(capsys, tmp_path):
    before, now = tmp_path / "before.json", tmp_path / "now.json"
    before.write_text(json.dumps(recorded(row())))
    now.write_text(json.dumps(recorded(row(us=150.0))))
    code, out, _ = command(capsys, "--against", now, "--baseline", before)
    assert code == 1 and "relu, large, float16: 150.00 us, the baseline 100.00 us" in out
    assert command(capsys, "--against", before, "--baseline", before)[0] == 0


def test_lists(capsys):
    code, out, _ = command(capsys, "relu", "--list")
    assert code == 0 and "2^30 elements" in out and "rope  " in out.partition("peers")[2]


ACME = {
    "__init__.py": "",
    "corr.py": """
import torch
import bridge

@bridge.op("{name}::corr")
def corr(x: torch.Tensor) -> torch.Tensor:
    \"\"\"x x.\"\"\"
    return x * x
""",
    "workloads.py": """
from bridge.bench.peer import Peer
from bridge.bench.workload import Workload

class Corr(Workload):
    def arguments(self, device):
        return [self._random(device, 4, 5)], {{}}
    def bytes(self):
        return 2 * 20 * self.element

def workloads():
    yield Corr("{op}", "a small flow", "float16")
    yield Corr("{op}", "a large flow", "float16", "growth")

PEERS = (Peer("eager", "{op}", lambda workload, settings: lambda args: args[0] * args[0]),)
""",
}


@pytest.fixture
def acme(tmp_path, monkeypatch):
    """Makes a package with an op and workloads, and gives its name; forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(name, op=None):
        for path, text in ACME.items():
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / path).write_text(text.format(name=name, op=op or f"{name}::corr"))
        return name

    with forgotten():
        yield make


def test_the_workloads_of_another_library(capsys, acme):
    name = acme("acme_listed")
    arguments = ("--library", name, "--import", f"{name}.corr")
    code, out, _ = command(capsys, *arguments, "--list")
    assert code == 0 and f"{name}::corr  a small flow  float16  0.0 MB" in out
    assert f"{name}::corr  eager" in out.partition("peers")[2] and "relu" not in out
    assert "a large flow" in command(capsys, *arguments, "--list", "--growth", "corr")[1]
    code, _, err = command(capsys, *arguments, "rope")
    assert code == 2 and f"no workload is of 'rope'; there are {name}::corr" in err
    code, _, err = command(capsys, *arguments, "--record")
    assert code == 2 and f"the baselines in bridge are of its own ops, not of {name}'s" in err


def test_without_a_gpu_another_library_is_not_measured(capsys, acme, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    name = acme("acme_measured")
    code, _, err = command(capsys, "--library", name, "--import", f"{name}.corr")
    assert code == 7 and "measures on a CUDA GPU, and there is none" in err


def test_workloads_that_are_not_there_or_of_no_op(capsys, acme, tmp_path):
    name = acme("acme_without")
    (tmp_path / name / "workloads.py").unlink()
    code, _, err = command(capsys, "--library", name, "--import", f"{name}.corr", "--list")
    assert code == 2 and f"the library {name} has no workloads: they are in a package `workloads`" in err
    code, _, err = command(capsys, "--library", "acme_nowhere", "--list")
    assert code == 7 and "there is no library acme_nowhere" in err
    code, _, err = command(capsys, "--library", name, "--import", "acme_nowhere", "--list")
    assert code == 7 and "acme_nowhere does not import" in err
    name = acme("acme_misnamed", op="corr")
    code, _, err = command(capsys, "--library", name, "--import", f"{name}.corr", "--list")
    assert code == 2 and f"has a workload of 'corr'; the ops of {name} are {name}::corr" in err
    assert command(capsys, "--engine", "x.engine", "--library", name)[2].count("--library") == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nothing"], f"no workload is of 'nothing'; there are {', '.join(sorted(OPS))}"),
        (["relu", "--workload", "nothing"], "no workload's name holds 'nothing'; there are 2^30 elements"),
        (["--peers", "nothing"], f"no peer is called 'nothing'; there are {min(each.name for each in peers.PEERS)}, "),
    ],
)
def test_wrong_names_are_answered_with_those_that_exist(capsys, arguments, text):
    code, _, err = command(capsys, *arguments)
    assert code == 2 and text in err


def test_a_baseline_that_is_not_there(capsys, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(recorded(row())))
    code, _, err = command(capsys, "--against", tmp_path / "run.json", "--baseline", "recorded")
    assert code == 2 and "there is no baseline nvidia_a_gpu.json; recorded in bridge are" in err


@pytest.fixture
def baselines(tmp_path, monkeypatch):
    """An empty folder in the place of bridge's own."""
    monkeypatch.setattr(baseline, "FOLDER", tmp_path / "baselines")
    return baseline.FOLDER


def complete(**changes):
    """A run of every default workload."""
    return recorded(*(row(w.name, op=w.op, dtype=w.dtype) for w in workloads.select())) | changes


def test_a_run_is_recorded_and_compared_with(capsys, tmp_path, baselines):
    run, slower = tmp_path / "run.json", tmp_path / "slower.json"
    run.write_text(json.dumps(complete()))
    code, out, _ = command(capsys, "--against", run, "--record")
    assert code == 0 and f"recorded in {baselines / 'nvidia_a_gpu.json'}" in out
    assert json.loads((baselines / "nvidia_a_gpu.json").read_text()) == complete()
    rows = complete()["rows"]
    slower.write_text(json.dumps(complete(rows=[rows[0] | {"us": 200.0}, *rows[1:]])))
    code, out, _ = command(capsys, "--against", slower, "--baseline", "recorded")
    assert code == 1 and out.count("the baseline 100.00 us") == 1


@pytest.mark.parametrize("path", sorted(baseline.FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_baselines_in_bridge_are_whole_runs(path):
    run = baseline.load(baseline.RECORDED, json.loads(path.read_text())["gpu"])
    assert baseline.path_of(run["gpu"]) == path and report.regressions(run, run) == []
    keys = [report.key_of(row) for row in run["rows"]]
    measured = {op for op, _, _ in keys}  # an op may have got its workloads since
    baseline.check_complete([*keys, *((w.op, w.name, w.dtype) for w in WORKLOADS if w.op not in measured)])
    assert len(set(keys)) == len(keys) and all(row["right"] and row["us"] > 0 for row in run["rows"])
    assert set(run["ceilings"]) <= set(CEILINGS) and run["gpu"] in report.table(run)
    shares = re.findall(r" (\d+)%", report.table(run))
    assert shares and max(map(int, shares)) <= 100


def test_only_what_was_chosen_is_compared(baselines):
    baseline.record(complete())
    chosen = workloads.select(["rope"])
    before = baseline.load("recorded", "NVIDIA A GPU", chosen)
    assert len(before["rows"]) == len(chosen) and {row["op"] for row in before["rows"]} == {"rope"}
    assert len(baseline.load("recorded", "NVIDIA A GPU")["rows"]) == len(complete()["rows"])


def test_what_is_no_baseline_is_not_recorded(capsys, tmp_path, baselines):
    rows = complete()["rows"]
    for changed, text in [
        (rows[1:], "this run lacks 1 of them, the first deform_conv2d, large, float16: record without OP"),
        ([rows[0] | {"right": False}, *rows[1:]], "not recorded: the results of deform_conv2d, large, float16 are"),
    ]:
        (tmp_path / "run.json").write_text(json.dumps(complete(rows=changed)))
        code, _, err = command(capsys, "--against", tmp_path / "run.json", "--record")
        assert code == 2 and text in err and not baselines.exists()


def test_only_a_whole_run_is_measured_for_a_record(capsys, monkeypatch, baselines):
    monkeypatch.setattr(measure, "run", lambda *rest: pytest.fail("measured"))
    code, _, err = command(capsys, "relu", "--record")
    assert code == 2 and "record without OP and --workload" in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_without_a_gpu_it_says_so(capsys):
    code, _, err = command(capsys, "relu")
    assert code == 7 and "there is none" in err


# Pictures


def grown(unit="tokens", sizes=(64, 4, 1), **changes):
    return [row(f"{unit} {size}", float(size), floor_us=size / 2, **changes) for size in sizes]


def drawn(axis):
    """Label → (x, y) of every line of a panel."""
    return {line.get_label(): [list(map(float, data)) for data in line.get_data()] for line in axis.lines}


@needs_matplotlib
def test_each_series_is_drawn_with_its_floor():
    run = recorded(*grown(), *grown(dtype="float32", sizes=(2, 8)), *grown("side", op="rope"), row("large"))
    relu, rope, _ = plots.draw(run).axes
    lines = drawn(relu)
    assert lines["bridge, float16"] == [[1, 4, 64], [1, 4, 64]]
    assert lines["floor, float16"] == [[1, 4, 64], [0.5, 2, 32]]
    assert lines["floor, float32"] == [[2, 8], [1, 4]] and lines["eager, float32"] == [[2, 8], [4, 16]]
    assert (relu.get_title(), relu.get_xlabel(), rope.get_title(), rope.get_xlabel()) == (
        "relu",
        "tokens",
        "rope",
        "side",
    )


def test_a_series_says_what_else_its_rows_have_in_common():
    names = ["regions 8, NCHW", "regions 1, NCHW", "regions 1, channels-last", "stage 4, one image", "decode, 4"]
    found = plots.growth([row(name, op="roi_align") for name in names])
    assert list(found) == [("roi_align", "regions")]
    assert [size for size, _ in found["roi_align", "regions"].pop("float16, NCHW")] == [1, 8]
    assert not found["roi_align", "regions"]


@needs_matplotlib
def test_a_peer_that_is_missing_at_a_size_is_left_out_there():
    rows = grown()
    rows[1]["peers"] = {"eager": {"missing": "no"}, "late": {"us": 5.0, "bound": True}}
    lines = drawn(plots.draw(recorded(*rows)).axes[0])
    assert lines["eager, float16"] == [[1, 64], [2, 128]] and lines["late, float16"] == [[4], [5]]


@needs_matplotlib
def test_the_roofline_has_measured_ceilings_and_points():
    product = row("large", 100.0, op="deform_conv2d", flops=10**10, bytes=10**8)
    products, others = plots.draw(recorded(product, row("many", 50.0, bytes=10**8))).axes
    roof = drawn(products)["ceiling, float16"]
    ridge = roof[0].index(200.0)  # 8e8 operations and 4e6 bytes a microsecond
    assert roof[1][ridge] == pytest.approx(800.0) and roof[1][-1] == pytest.approx(800.0)
    assert roof[1][0] == pytest.approx(roof[0][0] * 4.0)
    assert drawn(products)["deform_conv2d, float16"] == [[100.0], [100.0]]
    assert drawn(others)["relu, float16"] == [[10**8], [2.0]]
    limit = drawn(others)["copy and launch"]
    assert limit[0][1] == pytest.approx(4e6) and limit[1][1:] == pytest.approx([4.0, 4.0])


@needs_matplotlib
@pytest.mark.parametrize("rows", [grown(), [row(op="rope", flops=5)], grown("side") * 2 + grown("tokens", op="rope")])
def test_a_recorded_run_becomes_a_picture(capsys, tmp_path, rows):
    run, picture = tmp_path / "run.json", tmp_path / "run.png"
    run.write_text(json.dumps(recorded(*rows)))
    assert command(capsys, "--against", run, "--plot", picture)[0] == 0
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 5000


@needs_matplotlib
def test_nothing_to_draw(capsys, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(recorded()))
    code, _, err = command(capsys, "--against", tmp_path / "run.json", "--plot", tmp_path / "run.png")
    assert code == 2 and "the run has no rows to draw" in err and not (tmp_path / "run.png").exists()


def test_without_matplotlib_nothing_is_measured(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(measure, "run", lambda *rest: pytest.fail("measured"))
    code, _, err = command(capsys, "relu", "--plot", tmp_path / "run.png")
    assert code == 7 and "--plot needs matplotlib" in err and "pip install 'bridge-tensorrt[bench]'" in err


# On a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("op", OPS)
def test_a_measured_row(op):
    workload = min(workloads.select([op]), key=lambda each: each.bytes())
    (peer, *_) = (peer for peer in peers.PEERS if peer.op == op)
    found = measure.measure_workload(workload, [peer], ceilings.refreshed(workload, CEILINGS))
    assert found["right"] and 0 < found["low_us"] <= found["us"] <= found["high_us"]
    assert found["peers"][peer.name]["us"] > 0 and found["cold_us"] > 0


@pytest.mark.gpu
def test_measured_ceilings(device):
    found = ceilings.measure_ceilings()
    assert set(found) == set(CEILINGS)
    assert 1e4 < found["bytes_per_us"] < 1e8  # 10 GB/s to 100 TB/s
    assert 0.2 < found["launch_us"] < 100
    assert found["bytes_per_us"] / 2 < found["l2_bytes_per_us"] and found["l2_bytes"] > 1e6
    assert 1e5 < found["flops_per_us_float32"] < found["flops_per_us_tf32"] < found["flops_per_us_float16"] < 1e11
