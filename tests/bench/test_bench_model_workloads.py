"""Workloads of published models: what they gather, their variations, and the layouts and parts that models have."""

import math
from pathlib import Path

import pytest
import torch
from bench_rows import CEILINGS
from test_bench_workloads import KINDS

from bridge.bench import measure, peers, workloads
from bridge.bench.peer import Missing, Peer
from bridge.bench.workloads.deform_conv2d import DeformConv2d
from bridge.bench.workloads.detection.nms import Nms
from bridge.bench.workloads.detection.roi_align import RoiAlign
from bridge.bench.workloads.ms_deform_attn import MsDeformAttn
from bridge.bench.workloads.rope import Rope
from bridge.core.op import OPS

CPU = torch.device("cpu")


@pytest.mark.parametrize("offset", [0.0, 0.5, -40.0])
def test_corners_that_a_deformable_convolution_gathers_one_by_one(offset):
    torch.manual_seed(0)
    workload = DeformConv2d(
        "deform_conv2d", "x", "float16", batch=2, channels=4, size=(5, 6), kernel=(2, 3), stride=(2, 1),
        padding=(1, 2), dilation=(2, 1), offset_groups=2, spread=2.0,
    )  # fmt: skip
    args, settings = workload.arguments(CPU)
    offsets = args[1].view(2, 2, 2, 3, 2, *workload.out_size()).float().add_(offset)
    args[1] = offsets.half().view(args[1].shape)
    inside = 0
    for n, group, row, column, y, x in torch.cartesian_prod(
        *map(torch.arange, (2, 2, 2, 3, *workload.out_size()))
    ).tolist():
        down, right = args[1].view(offsets.shape)[n, group, row, column, :, y, x].tolist()
        top, left = math.floor(2 * y - 1 + 2 * row + down), math.floor(x - 2 + column + right)
        inside += sum(0 <= top + i < 5 and 0 <= left + j < 6 for i in (0, 1) for j in (0, 1))
    assert workload.gathered(args, settings) == inside * (4 // 2) * 2
    assert (inside == 0) == (offset == -40.0)


@pytest.mark.parametrize("op", KINDS)
def test_attention_gathers_the_corners_in_its_levels(op):
    torch.manual_seed(0)
    sizes = {"batch": 2, "queries": 3, "heads": 2, "head_dim": 8, "levels": ((5, 6), (5, 6)), "points": 2}
    workload = KINDS[op](op, "x", "float16", spread=0.5, **sizes)
    args, settings = workload.arguments(CPU)
    corner = (workload.locations(args).float() * torch.tensor([6.0, 5.0]) - 0.5).floor()
    inside = sum(
        int(((corner[..., 0] + i).clamp(0, 5) == corner[..., 0] + i).logical_and(
            (corner[..., 1] + j).clamp(0, 4) == corner[..., 1] + j
        ).sum())
        for i in (0, 1)
        for j in (0, 1)
    )  # fmt: skip
    assert 0 < inside < 4 * corner[..., 0].numel()
    assert workload.gathered(args, settings) == inside * 8 * 2


def test_levels_of_one_size_are_read_apart():
    workload = MsDeformAttn("ms_deform_attn", "x", "float16", queries=1, heads=1, levels=((4, 4), (4, 4)), points=1)
    assert workload._touched(torch.full((1, 1, 1, 2, 1, 2), 0.5)) == 8


def test_a_region_gathers_each_of_its_pixels_once():
    workload = RoiAlign("roi_align", "x", "float16", channels=8, size=(20, 24), count=2, output_size=2)
    rois = torch.tensor([[0, 4.0, 4, 20, 20], [0, 4, 4, 20, 20]])  # both read rows and columns 1 to 5
    settings = {"spatial_scale": 0.25}
    assert workload.gathered([None, rois], settings) == 2 * workload.gathered([None, rois[:1]], settings) == 2 * 25 * 16


def test_a_spread_is_a_share_of_the_map():
    torch.manual_seed(0)
    found = {}
    for share in (0.02, 0.3):
        workload = MsDeformAttn("ms_deform_attn", "x", "float32", heads=2, levels=((40, 80),), points=2, spread=share)
        _, _, offsets, _ = workload.components(CPU)
        found[share] = offsets.flatten(0, -2).std(0)
        torch.testing.assert_close(found[share], share * torch.tensor([80.0, 40.0]), rtol=0.05, atol=0)


def test_a_grid_of_queries_covers_the_map():
    workload = MsDeformAttn("ms_deform_attn", "x", "float32", grid=(2, 4), heads=1, levels=((8, 8),), points=1)
    references = workload._references(CPU)[0, :, 0]
    assert workload.count == 8 and references[0].tolist() == [0.125, 0.25] and references[1].tolist() == [0.375, 0.25]


# Models


def test_attention_has_heads_that_no_vector_of_8_divides():
    for op in KINDS:
        assert any(workload.head_dim % 8 for workload in workloads.select([op]))
        names = " ".join(workload.name for workload in workloads.select([op]))
        for model in ("DINO", "Mask2Former", "BEVFormer, spatial", "BEVFormer, temporal", "RT-DETR", "TrackFormer"):
            assert model in names


def test_rope_has_models_that_rotate_a_part_and_batches_that_decode():
    ropes = workloads.select(["rope"])
    assert {w.rotary_dim for w in ropes} == {0, 24, 32, 96}
    assert {w.batch for w in ropes if w.seq == 1} >= {1, 4, 8, 16, 32, 64}


def partial_rope(**changes):
    sizes = {"batch": 2, "seq": 3, "heads": (4, 2), "head_dim": 8, "rotary_dim": 4, "layout": "bhsd"}
    return Rope("rope", "x", "float32", transposed=True, **(sizes | changes))


@pytest.mark.parametrize("rotary_dim", [0, 4])
def test_peers_of_rope_rotate_a_part_of_views(rotary_dim):
    workload = partial_rope(rotary_dim=rotary_dim)
    args, settings = workload.arguments(CPU)
    assert args[0].shape == (2, 4, 3, 8) and args[0].transpose(1, 2).is_contiguous()
    assert args[2].shape == (3, (rotary_dim or 8) // 2) and workload.bytes() == 2 * 6 * 6 * 8 * 4 + 4 * 3 * (
        rotary_dim or 8
    )
    (eager,) = (peer for peer in peers.PEERS if (peer.op, peer.name) == ("rope", "eager"))
    expected = OPS["rope"].overload(*args, **settings)
    torch.testing.assert_close(eager.prepare(workload, settings)(args), expected)


@pytest.mark.parametrize("in_place", [False, True])
def test_peers_that_take_tokens_first_take_what_the_views_show(monkeypatch, in_place):
    """With an implementation of FlashInfer's signature in the place of its own, which needs a GPU."""
    workload = partial_rope(rotary_dim=0, head_dim=16)
    args, settings = workload.arguments(CPU)

    def apply(positions, q, k, head_dim, cache, is_neox):
        cos, sin = cache[positions].chunk(2, -1)
        assert is_neox and q.shape == (6, 4 * head_dim)
        tokens = (x.view(1, 6, -1, head_dim) for x in (q, k))
        rotated = [x.flatten(2)[0] for x in OPS["rope"].overload(*tokens, cos, sin, layout="bshd")]
        if not in_place:
            return tuple(rotated)
        for target, source in zip((q, k), rotated, strict=True):
            target.copy_(source)
        return None

    module = "bridge.bench.workloads.rope"
    monkeypatch.setattr(f"{module}.imported", lambda *_: apply)
    arange = torch.arange
    monkeypatch.setattr(f"{module}.torch.arange", lambda n, device=None, **rest: arange(n, **rest))
    (peer,) = (p for p in peers.PEERS if (p.op, p.name) == ("rope", "sglang" if in_place else "flashinfer"))
    call = peer.prepare(workload, settings)
    assert measure._difference(call, workload, args, settings) < 1e-6
    with pytest.raises(Missing, match="it takes 16 elements at once, and rotates 24"):
        peer.prepare(partial_rope(rotary_dim=24, head_dim=96), settings)


def test_a_threshold_of_nms_is_the_models():
    _, settings = Nms("nms", "x", "float32", count=10, threshold=0.7).arguments(CPU)
    assert settings == {"iou_threshold": 0.7}


# A run


def test_peers_that_compile_are_not_measured_beside_variations(monkeypatch):
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(measure, "_measure_peer", lambda *_: {"us": 1.0})
    for name in ("compare", "_time_cold", "_time", "_times"):
        monkeypatch.setattr(measure, name, lambda *_: type("", (dict,), {"us": 1.0})())
    monkeypatch.setattr(Nms, "arguments", lambda self, device: ([], {}))
    both = [Peer("quick", "nms", None), Peer("slow", "nms", None, compiles=True)]
    rows = [
        measure.measure_workload(Nms("nms", "x", "float32", variation=variation), both, CEILINGS)
        for variation in (False, True)
    ]
    assert [set(row["peers"]) for row in rows] == [{"quick", "slow"}, {"quick"}]


def test_a_run_takes_what_the_documentation_says():
    """Peers that compile take 3 to 15 s a row: a run of all ops is 20 minutes, and stays so."""
    table = (Path(__file__).parents[2] / "docs" / "baselines.md").read_text()
    rows = workloads.select()
    (by_op,) = (line.split("in ")[1].rstrip(";do ").split() for line in table.split("\n") if line.startswith("for op"))
    assert set(by_op) == {workload.op for workload in rows}
    for op in OPS.keys() & {workload.op for workload in rows}:
        of_op = [workload for workload in rows if workload.op == op]
        beside = [(w, p) for w in of_op for p in peers.PEERS if p.op == op and not (p.compiles and w.variation)]
        compiled = sum(peer.compiles for _, peer in beside)
        assert f"| `{op}` | {len(of_op)} | {len(beside)} | {compiled} |\n" in table
    assert f"# {len(rows)} workloads beside their peers" in table and len(rows) < 275
