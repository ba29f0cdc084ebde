"""Which items a picture has, where they stand, and how long that takes."""

import itertools
import random
import time
from collections import defaultdict

import pytest

from bridge.engine.report import layout, network

WIDTH = 100.0


def layer(name, inputs, kind="ELEMENTWISE", outputs=None, op=None):
    found = [{"name": each, "dtype": "float16", "shape": [2]} for each in outputs or [f"{name}'"]]
    return {"name": name, "type": kind, "op": op, "inputs": inputs, "outputs": found}


def items_of(make_engine_file, *layers):
    found = network.of_file(make_engine_file(layers=list(layers)))
    return found, {item.name: item for item in found.items}


def test_weights_and_extents_are_folded_and_values_are_not(make_engine_file):
    _, items = items_of(
        make_engine_file,
        layer("weight", [], "CONSTANT"),
        layer("wider", ["weight'"], "SHUFFLE"),
        layer("shape", ["x"], "SHAPE"),
        layer("extent", ["shape'", "weight'"], "GATHER"),
        layer("add", ["x", "wider'"]),
        layer("reshape", ["add'", "extent'"], "SHUFFLE"),
        layer("kernel", ["weight'"], "PLUGIN_V3", op="acme"),
        layer("result", [], "CONSTANT", ["y"]),
    )
    assert [name for name, item in items.items() if item.folded] == ["weight", "wider", "shape", "extent"]


def test_the_first_maker_of_a_tensor_counts_and_unknown_tensors_have_none(make_engine_file):
    found, items = items_of(
        make_engine_file,
        layer("first", ["x"], outputs=["t"]),
        layer("second", ["x"], outputs=["t"]),
        layer("loop", ["loop'", "nowhere"]),
        layer("taker", ["t", "later'"]),
        layer("later", ["taker'"]),
    )
    names = list(items)
    assert ("first", "taker") in [(names[edge.source], names[edge.target]) for edge in found.edges]
    assert ("later", "taker") in [(names[edge.source], names[edge.target]) for edge in found.edges]
    assert not [edge for edge in found.edges if names[edge.target] == "loop"]
    assert found.tensors[items["loop"].inputs[1]] == network.Tensor("nowhere", None, None)


def placed(count, pairs):
    lines = [(source, target, source) for source, target in pairs]
    return layout.layered([WIDTH] * count, lines), lines


def check(found, lines):
    """Boxes are apart, and each line goes from below its source to above its target."""
    ranks = defaultdict(list)
    for x, y in found.centres:
        ranks[y].append(x)
        assert x >= WIDTH / 2 and x + WIDTH / 2 <= found.width and 0 < y < found.height
    for places in ranks.values():
        places.sort()
        assert all(b - a >= WIDTH for a, b in itertools.pairwise(places))
    for (source, target, _), points in zip(lines, found.lines, strict=True):
        half = WIDTH / 2 + 1e-6
        assert points[0][1] == found.centres[source][1] + layout.BOX_HEIGHT / 2
        assert points[-1][1] == found.centres[target][1] - layout.BOX_HEIGHT / 2
        assert abs(points[0][0] - found.centres[source][0]) < half
        assert abs(points[-1][0] - found.centres[target][0]) < half


def test_a_chain_is_straight():
    found, lines = placed(30, [(index, index + 1) for index in range(29)])
    check(found, lines)
    assert len({x for x, _ in found.centres}) == 1
    assert [y for _, y in found.centres] == sorted({y for _, y in found.centres})


def test_boxes_stand_below_what_they_take_from_and_weights_beside_their_use():
    found, lines = placed(6, [(0, 2), (2, 3), (3, 4), (1, 4), (4, 5)])
    check(found, lines)
    rank = [y for _, y in found.centres]
    assert all(rank[source] < rank[target] for source, target, _ in lines)
    assert rank[1] == rank[3]


def test_the_trunk_stays_straight_beside_residual_lines():
    pairs = [(index, index + 1) for index in range(200)] + [(index, index + 4) for index in range(0, 200, 4)]
    found, lines = placed(201, pairs)
    check(found, lines)
    assert found.width < 6 * WIDTH


def test_a_line_passes_no_box():
    found, lines = placed(5, [(0, 1), (1, 2), (2, 3), (3, 4), (0, 4)])
    check(found, lines)
    assert found.lanes == [False] * 5
    for x, y in found.lines[4][1:-1]:
        beside = [centre for centre, middle in found.centres if abs(middle - y) <= layout.BOX_HEIGHT / 2]
        assert all(abs(centre - x) > WIDTH / 2 for centre in beside)


def test_long_lines_run_in_lanes_apart_from_each_other():
    chain = [(index, index + 1) for index in range(60)]
    found, lines = placed(61, [*chain, (0, 50), (0, 55), (3, 45), (52, 60)])
    check(found, lines)
    assert [index for index, lane in enumerate(found.lanes) if lane] == [60, 61, 62]
    first, second, other = (found.lines[index][2][0] for index in (60, 61, 62))
    assert first == second != other
    assert min(first, other) > max(x for x, _ in found.centres) + WIDTH / 2


@pytest.mark.parametrize("pairs", [[(0, 1), (1, 0)], [(2, 1), (1, 2), (2, 0), (0, 2)], []])
def test_lines_in_circles_end(pairs):
    found, lines = placed(3, pairs)
    check(found, lines)


def test_nothing_to_place():
    assert layout.layered([], []).lines == []


def test_random_networks():
    for seed in range(20):
        draw = random.Random(seed)
        pairs = {tuple(sorted(draw.sample(range(60), 2))) for _ in range(90)}
        check(*placed(60, sorted(pairs)))


def test_time_is_nearly_linear():
    def seconds(count):
        draw = random.Random(0)
        pairs = [(draw.randrange(max(0, target - 30), target), target) for target in range(1, count) for _ in range(2)]
        start = time.process_time()
        placed(count, pairs)
        return time.process_time() - start

    seconds(100)
    assert seconds(2000) < 16 * max(seconds(500), 0.01)  # 4 if linear
