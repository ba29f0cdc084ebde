"""What bridge bench compares: results with a wider dtype, and peers with what the op does."""

import re

import pytest
import torch
from bench_rows import CEILINGS, command, recorded, row
from test_bench_workloads import KINDS, boxes_of

from bridge.bench import ceilings, measure, peers, workloads
from bridge.bench.peer import Peer, plain
from bridge.bench.workload import Workload
from bridge.bench.workloads import WORKLOADS
from bridge.bench.workloads.deform_conv2d import DeformConv2d
from bridge.bench.workloads.detection.roi_align import RoiAlign
from bridge.bench.workloads.relu import Relu
from bridge.bench.workloads.rope import Rope
from bridge.core.op import OPS
from bridge.engine.timing import Timing
from bridge.testing import DTYPES


@pytest.mark.parametrize("name", ["torchvision", "inductor"])
def test_peers_of_roi_align_compute_what_it_does(name, monkeypatch):
    pytest.importorskip("torchvision", reason="needs torchvision")
    workload = RoiAlign("roi_align", "x", "float32", channels=3, size=(40, 50), count=5)
    torch.manual_seed(0)
    args, settings = workload.arguments("cpu")
    (peer,) = (peer for peer in peers.PEERS if (peer.op, peer.name) == ("roi_align", name))
    monkeypatch.setattr("bridge.bench.workloads.detection.roi_align.compiled", plain)  # inductor takes its time
    expected = measure.OPS["roi_align"].overload(*args, **settings)
    with torch.compiler.set_stance("force_eager"):  # torchvision compiles it, too
        found = peer.prepare(workload, settings)(args)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_errors_of_roi_align_are_measured_with_all_images_at_once():
    workload = RoiAlign("roi_align", "x", "float16", channels=8, size=(40, 50), count=9, channels_last=True)
    torch.manual_seed(0)
    found = measure.compare(workload, *workload.arguments("cpu"))
    assert found["right"] and found["error"] < 1e-2


# Boxes


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
    sizes = {"batch": 2, "channels": 8, "size": (9, 7), "out_channels": 8}
    for modulated in (True, False):
        workload = DeformConv2d("deform_conv2d", "x", "float16", **sizes, modulated=modulated)
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


def test_a_wrong_result_is_found(monkeypatch):
    class Wrong:
        call_reference, attributes = measure.OPS["relu"].call_reference, ()

        @staticmethod
        def overload(x, **settings):
            return x.clone().index_fill_(0, torch.tensor([3]), 9.0)

    workload = Relu("relu", "x", "float32", count=100)
    args, settings = workload.arguments(torch.device("cpu"))
    monkeypatch.setitem(measure.OPS, "relu", Wrong)
    assert not measure.compare(workload, args, settings)["right"]


# Peers


def test_peers_compute_what_the_op_does():
    elementwise = [w for w in WORKLOADS if w.op in ("relu", "rope") and "interleaved" not in w.name]
    for workload in (w for w in elementwise if w.bytes() < 2e6 or w.name == "decode, 4"):
        args, settings = workload.arguments(torch.device("cpu"))
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
    monkeypatch.setattr(measure, "replayed", lambda call, before: call())

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


def test_a_graph_that_lacks_kernels_of_a_peer_is_not_timed(monkeypatch):
    """It is timed outside of a graph, where its entry says that it launches on the default stream."""
    workload = Rope("rope", "x", "float32", batch=2, seq=3, heads=(4, 2), head_dim=8)
    args, settings = workload.arguments(torch.device("cpu"))
    monkeypatch.setattr(measure, "time_call", lambda call, arguments: Timing(1.0, 1.0, 1.0, 0.0))
    monkeypatch.setattr(measure, "time_queued", lambda call, arguments: Timing(2.0, 2.0, 2.0, 0.0))
    seen = []

    def ours(given):
        return measure.OPS["rope"].overload(*given, **settings)

    def in_place(given):
        q, k = ours(given)
        return given[0].copy_(q), given[1].copy_(k)

    def replay(call, before):
        call()
        before()
        seen.append(call())
        return seen[-1]

    def measured(call, **changes):
        return measure._measure_peer(Peer("p", "rope", lambda *_: call, **changes), workload, args, settings)

    monkeypatch.setattr(measure, "replayed", replay)
    assert measured(ours)["us"] == measured(in_place)["us"] == 1 and len(seen) == 2
    monkeypatch.setattr(measure, "replayed", lambda call, before: tuple(torch.zeros_like(t) for t in call()))
    assert "differs by 1: the graph lacks some of its kernels" in measured(ours)["missing"]
    assert measured(ours, default_stream=True)["us"] == 2
    monkeypatch.setattr(measure, "time_loop", lambda call: Timing(3.0, 3.0, 3.0, 0.0))
    assert measured(ours, waits=True)["us"] == 3


@pytest.mark.gpu
def test_torchvisions_deform_conv2d_is_timed_with_all_its_kernels():
    """It launches one on the default stream; with another stream current it would be missing."""
    torchvision = pytest.importorskip("torchvision", reason="needs torchvision")
    workload = next(w for w in WORKLOADS if w.name == "BasicVSR++" and w.dtype == "float16")
    args, settings = workload.arguments(torch.device("cuda"))
    (peer,) = (peer for peer in peers.select(["torchvision"]) if peer.op == "deform_conv2d")
    found = measure._measure_peer(peer, workload, args, settings)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        torchvision.ops.deform_conv2d(*args[:4], **settings, mask=args[4])
        torch.cuda.synchronize()
    kernels = {event.key: event.self_device_time_total for event in profile.key_averages()}
    assert any("deformable_im2col" in name for name in kernels)
    assert 0.8 * sum(kernels.values()) < found["us"] < 1.5 * sum(kernels.values())


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
    ceilings = {"measure_ceilings": lambda: CEILINGS, "environment": dict, "refreshed": lambda *_: {}}
    for name, value in ceilings.items():
        monkeypatch.setattr(measure, name, value)
    monkeypatch.setattr(
        measure, "measure_workload", lambda workload, others, _: row(group=workload.group, others=len(others))
    )
    chosen = workloads.select(["rope"], [], ("default", "growth"))
    rows = measure.run(chosen, peers.PEERS, lambda _: None, beside_growth=False)["rows"]
    assert {(row["group"], row["others"]) for row in rows} == {("default", len(peers.PEERS)), ("growth", 0)}


# On a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("op", OPS)
def test_a_measured_row(op):
    workload = min(workloads.select([op]), key=lambda each: each.bytes())
    others = [peer for peer in peers.PEERS if peer.op == op and not peer.compiles]
    found = measure.measure_workload(workload, others, ceilings.refreshed(workload, CEILINGS))
    assert found["right"] and 0 < found["low_us"] <= found["us"] <= found["high_us"] and found["cold_us"] > 0
    assert others and set(found["peers"]) == {peer.name for peer in others}
    excused = "ModuleNotFoundError|computes something else|it takes|it is"  # in 16 bits some round coordinates
    for peer in found["peers"].values():
        assert peer.get("us", 0) > 0 or re.search(excused, peer["missing"])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_exact_result_is_computed_on_the_gpu(dtype):
    """In float64 for float32, which the op itself does not take there."""
    workload = Workload("relu", "small", str(dtype).removeprefix("torch."))
    errors = measure.compare(workload, [torch.randn(33, 7, device="cuda", dtype=dtype)], {"negative_slope": 0.1})
    assert errors["right"] and OPS["relu"].has_cuda_kernel
