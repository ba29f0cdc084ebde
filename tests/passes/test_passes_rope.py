"""The pass that finds rotary embeddings: whatever way they are written, and nothing else."""

import io

import pytest
import torch
from rope_programs import DYNAMIC, Function, arguments, both, calls, check_found, check_same, export
from rotary_code import (
    NEAR_MISSES,
    PARTIAL,
    WHOLE,
    backward_rotation,
    by_head,
    deepseek,
    full,
    hugging_face,
    llama_complex,
    partial_interleaved,
    rotate_half,
    with_chunks,
)

import bridge
from bridge.passes import rewrite, rewrite_graph


@pytest.mark.parametrize("write", [*WHOLE, *PARTIAL], ids=lambda write: write.__name__)
def test_every_way_to_write_it(write):
    dtype, pairs = torch.float16, 4 if write in PARTIAL else 8
    program = export(both(write), arguments(dtype=dtype, pairs=pairs), DYNAMIC)
    found = check_found(write, program, dtype, pairs)
    assert not found.graph.find_nodes(op="call_function", target=torch.ops.aten.mul.Tensor), "part of it is still there"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("write", [hugging_face, with_chunks, llama_complex, partial_interleaved])
def test_dtypes_and_decomposed_graphs(write, dtype):
    pairs = 4 if write in PARTIAL else 8
    program = export(both(write), arguments(dtype=dtype, pairs=pairs), DYNAMIC)
    check_found(write, program.run_decompositions(), dtype, pairs)


@pytest.mark.parametrize(("write", "reason"), NEAR_MISSES)
def test_near_misses_are_left_alone(write, reason):
    q, _, angles = arguments()
    program = export(write, (q, angles))
    found, outcomes = rewrite(program, ["rope"])
    assert found is program and not any(outcome.replaced for outcome in outcomes)
    assert [reason in outcome.what for outcome in outcomes] == ([True] if reason else []), outcomes
    assert all("in forward: return self.function(*args)" in outcome.line for outcome in outcomes)


def test_layout_with_heads_after_the_sequence():
    def rotate(q, k, angles):
        cos, sin = (table.unsqueeze(2) for table in full(angles))
        return tuple(x.transpose(1, 2) * cos + rotate_half(x.transpose(1, 2)) * sin for x in (q, k))

    found, _ = rewrite(export(rotate, arguments(), DYNAMIC), ["rope"])
    (call,) = calls(found)
    assert call.args[-1] == "bshd" and call.args[2].meta["val"].shape[-1] == 8  # half of the table says all
    check_same(found, rotate, arguments(3, 7))


SEQUENCE_FIRST = [
    (lambda table: table[:, :1], "sbhd"),
    (lambda table: table, "bshd"),  # of each sequence: it is a position to the op, and the other way round
]


@pytest.mark.parametrize(("tables", "layout"), SEQUENCE_FIRST, ids=["of all", "of each"])
def test_layout_with_the_sequence_first(tables, layout):
    """[S, B, H, D], as speech models have it; tables: from [S, B, 1, W]."""

    def rotate(q, k, angles):
        cos, sin = (tables(table.transpose(0, 1).unsqueeze(2)) for table in full(angles))
        return tuple(x * cos + rotate_half(x) * sin for x in (each.permute(2, 0, 1, 3) for each in (q, k)))

    found, (outcome,) = rewrite(export(rotate, arguments(), DYNAMIC), ["rope"])
    (call,) = calls(found)
    assert outcome.what == f"bridge.rope of queries and keys, half-split, {layout}" and call.args[-1] == "bshd"
    for size in [(3, 7), (1, 1), (5, 5)]:
        check_same(found, rotate, arguments(*size))


def test_tables_of_heads_with_the_sequence_first_are_left_alone():
    def rotate(q, angles):
        tables = (table.permute(1, 0, 2)[:, :, None] * torch.arange(1.0, 5.0)[:, None] for table in full(angles))
        cos, sin = tables  # [S, B, H, W]
        x = q.permute(2, 0, 1, 3)
        return x * cos + rotate_half(x) * sin

    program = export(rotate, arguments()[::2], DYNAMIC[::2])
    found, (outcome,) = rewrite(program, ["rope"])
    assert found is program and "must be the same for all heads" in outcome.what


def test_tables_without_batch_and_from_a_buffer():
    table = torch.randn(64, 16)

    def rotate(q, k, angles):
        cos, sin = table[: q.shape[2]].cos(), table[: q.shape[2]].sin()
        return tuple(x * cos + rotate_half(x) * sin for x in (q, k))

    found, _ = rewrite(export(rotate, arguments(), DYNAMIC), ["rope"])
    (call,) = calls(found)
    assert call.args[2].meta["val"].dim() == 2
    check_same(found, rotate, arguments(3, 7))


def test_complex_table_in_a_buffer():
    table = torch.polar(torch.ones(64, 8), torch.randn(64, 8))

    def rotate(q, k, angles):
        turns = table[: q.shape[2]].view(1, 1, -1, 8)
        pairs = [torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * turns for x in (q, k)]
        return tuple(torch.view_as_real(pair).flatten(3) for pair in pairs)

    found, _ = rewrite(export(rotate, arguments(), DYNAMIC), ["rope"])
    assert len(calls(found)) == 1
    check_same(found, rotate, arguments(3, 7))


def test_three_dimensions():
    def rotate(q, k, angles):
        cos, sin = (table.unsqueeze(-2) for table in full(angles[0]))
        return tuple(x * cos + rotate_half(x) * sin for x in (q[0].transpose(0, 1), k[0].transpose(0, 1)))

    found, _ = rewrite(export(rotate, arguments(), DYNAMIC), ["rope"])
    assert len(calls(found)) == 1
    check_same(found, rotate, arguments(3, 7))


def test_one_tensor_alone():
    found, (outcome,) = rewrite(export(hugging_face, arguments()[::2], DYNAMIC[::2]), ["rope"])
    (call,) = calls(found)
    assert "of one tensor" in outcome.what and call.args[1].meta["val"].shape[1] == 1
    check_same(found, hugging_face, arguments(3, 7)[::2])


def test_other_tables_are_other_calls():
    def rotate(q, k, angles):
        return hugging_face(q, angles), hugging_face(k, 2 * angles)

    found, outcomes = rewrite(export(rotate, arguments(), DYNAMIC), ["rope"])
    assert len(calls(found)) == 2 and all("of one tensor" in outcome.what for outcome in outcomes)
    check_same(found, rotate, arguments(3, 7))


def test_one_after_the_other():
    """Keys that are computed from rotated queries cannot be rotated in the same call."""

    def rotate(q, k, angles):
        q = hugging_face(q, angles)
        return q, hugging_face(k * q.mean(), angles)

    found, _ = rewrite(export(rotate, arguments(), DYNAMIC), ["rope"])
    assert len(calls(found)) == 2
    check_same(found, rotate, arguments(3, 7))


def test_keys_that_come_late():
    """Something uses the rotated queries before the keys are there."""

    def rotate(q, k, angles):
        q = hugging_face(q, angles)
        norm = (q + 1).mean()
        k = hugging_face(k.sigmoid(), angles)
        return q * norm, k

    found, _ = rewrite(export(rotate, arguments(), DYNAMIC), ["rope"])
    assert len(calls(found)) == 1
    found.graph_module.graph.lint()
    check_same(found, rotate, arguments(3, 7))


def test_order_is_kept_where_something_is_written():
    """In one call the rotation of q would be computed after `state` is read, and the write to it with it."""

    def rotate(q, k, angles):
        state = angles * 1
        view = state[:]
        q = hugging_face(q, angles)
        state.add_(q.mean())
        return q, view.sum(), hugging_face(k * view.mean(), angles)

    found, outcomes = rewrite(export(rotate, arguments(), DYNAMIC), ["rope"])
    assert len(calls(found)) == 2, outcomes
    check_same(found, rotate, arguments(3, 7))


def test_what_is_used_elsewhere_stays():
    def rotate(q, k, angles):
        cos, sin = by_head(full(angles))
        product, half = q * cos, rotate_half(q)
        rotated = product + half * sin
        return (
            torch.cat((rotated[..., :4], q[..., 4:8], rotated[..., 8:]), -1),
            half,
            product.amax(),
            hugging_face(k, angles),
        )

    found, _ = rewrite(export(rotate, arguments(), DYNAMIC), ["rope"])
    assert len(calls(found)) == 1
    check_same(found, rotate, arguments(3, 7))


def test_written_in_place():
    def rotate(q, k, angles):
        first = q * 1
        view, half = first[..., :], rotate_half(first)
        first.add_(1)
        cos, sin = by_head(full(angles))
        return view * cos + half * sin

    program = export(rotate, arguments())
    found, outcomes = rewrite(program, ["rope"])
    assert found is program and not any(outcome.replaced for outcome in outcomes)
    (outcome,) = rewrite_graph(program.graph, ["rope"])  # a graph that keeps its writes
    assert not outcome.replaced and "writes in place" in outcome.what


def test_rounded_in_between():
    """Products rounded to float16 and a result in float32: the op, in either dtype, would give something else."""

    def rotate(q, k, angles):
        cos, sin = by_head(full(angles))
        return (q * cos).half() + (rotate_half(q) * sin).half().float()

    found, outcomes = rewrite(export(rotate, arguments()), ["rope"])
    assert not calls(found) and not any(outcome.replaced for outcome in outcomes)


def test_result_is_the_output_of_the_program():
    """The names of a program's outputs are kept in its signature too."""
    found, _ = rewrite(export(lambda q, k, a: {"q": hugging_face(q, a), "k": k}, arguments(), DYNAMIC), ["rope"])
    torch.export.save(found, path := io.BytesIO())
    path.seek(0)
    again = torch.export.load(path)
    check_same(again, lambda q, k, a: {"q": hugging_face(q, a), "k": k}, arguments(3, 7))


def test_bridge_compile_replaces_and_says_so():
    model = Function(lambda q, k, angles: (hugging_face(q, angles), hugging_face(k, angles))).eval()
    shapes = {"args": DYNAMIC}
    compiled = bridge.compile(model, arguments(), dynamic_shapes=shapes, target="sm86")
    assert compiled.plugin_counts() == {"rope": 1}
    text = compiled.explain()
    assert "bridge.rope of queries and keys, half-split, bhsd" in text and "in forward: return self.function" in text
    assert [row["replaced"] for row in bridge.report(compiled).passes] == [True]
    assert "pass  1 rope" in str(bridge.report(compiled))
    plain = bridge.compile(model, arguments(), dynamic_shapes=shapes, target="sm86", passes=False)
    assert plain.plugin_counts() == {} and not plain.from_cache and bridge.report(plain).passes == []


def test_one_engine_of_many_ways():
    def rotate(q, k, angles):
        both = [write(x, angles) for write in (deepseek, backward_rotation) for x in (q, k)]
        return *both, llama_complex(q, 2 * angles), hugging_face(k, 3 * angles)  # each of these two alone

    compiled = bridge.compile(
        Function(rotate).eval(), arguments(dtype=torch.float16), dynamic_shapes={"args": DYNAMIC}, target="sm86"
    )
    assert compiled.plugin_counts() == {"rope": 4}
    native = bridge.compile(Function(rotate).eval(), arguments(), target="sm86", lowering={"rope": "native"})
    assert native.plugin_counts() == {}


def test_bridge_compile_says_why_not():
    write, reason = NEAR_MISSES[0]
    compiled = bridge.compile(Function(write).eval(), arguments()[::2], target="sm86")
    assert compiled.plugin_counts() == {}
    assert f"not replaced: lane 8 {reason}" in compiled.explain()


def test_rotated_twice():
    def rotate(q, k, angles):
        return tuple(hugging_face(hugging_face(x, angles), 2 * angles) for x in (q, k))

    found, _ = rewrite(export(rotate, arguments(), DYNAMIC), ["rope"])
    assert len(calls(found)) == 2
    check_same(found, rotate, arguments(3, 7))
