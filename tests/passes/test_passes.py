"""Passes as such: which run, what they leave alone, and the doors that have them."""

import contextlib
import types

import pytest
import torch
from rope_programs import DYNAMIC, ROPE, Function, arguments, both, export
from rotary_code import hugging_face

import bridge
from bridge import passes
from bridge.config import Config
from bridge.doors import torch_tensorrt_door as door
from bridge.errors import EngineError, EngineInputError
from bridge.passes import PASSES, Pass, pass_names, rewrite, rewrite_graph
from bridge.passes.common.constants import Constants
from bridge.passes.common.nodes import canonical_nodes, mutated_nodes

aten = torch.ops.aten
MODEL = Function(both(hugging_face)).eval()


def test_pass_names():
    assert "rope" in pass_names(True) and pass_names(False) == ()
    assert pass_names(["rope"]) == ("rope",) and pass_names(()) == ()


def test_every_file_says_what_it_is_called():
    assert [each.name for each in PASSES] == [each.apply.__module__.rpartition(".")[2] for each in PASSES]


def test_passes_run_by_rank_and_then_by_name(monkeypatch):
    made = [Pass("b", pytest.fail), Pass("c", pytest.fail, rank=-1), Pass("a", pytest.fail)]
    modules = [(each.name, types.SimpleNamespace(PASS=each)) for each in made] + [("common", types.SimpleNamespace())]
    monkeypatch.setattr(passes, "modules_of", lambda package: iter(modules))
    assert [each.name for each in passes.discover()] == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        ("rope", TypeError, "passes is 'rope' of type str; expected bool or list or tuple"),
        (
            ["rope", "rop"],
            ValueError,
            f"passes names 'rop', which does not exist; the passes are {', '.join(each.name for each in PASSES)}",
        ),
    ],
)
def test_bad_setting(value, error, text):
    with pytest.raises(error, match=text):
        Config(passes=value)


def test_a_program_without_matches_is_returned_as_it_is():
    program = export(lambda q, k, angles: q + 1, arguments())
    assert rewrite(program, pass_names(True)) == (program, [])
    assert rewrite(program, ()) == (program, [])


def test_canonical():
    def compute(x):
        return x.sin() + x.sin(), torch.rand_like(x) - torch.rand_like(x), x.clone().cos() + x.float().cos()

    graph = export(compute, (torch.randn(3),)).graph
    same = canonical_nodes(graph)
    sines, randoms, cosines = (
        graph.find_nodes(op="call_function", target=target)
        for target in (aten.sin.default, aten.rand_like.default, aten.cos.default)
    )
    assert same[sines[0]] is same[sines[1]] and same[cosines[0]] is same[cosines[1]]
    assert same[randoms[0]] is not same[randoms[1]]


def test_mutated_nodes():
    def compute(x, y):
        x = x * 1
        view, other = x[1:].unsqueeze(0), y * 2
        view.add_(1)
        return x.reshape(-1), other

    graph = export(compute, (torch.randn(3), torch.randn(3))).graph
    names = {node.name for node in mutated_nodes(graph)}
    assert {"mul", "slice_1", "unsqueeze", "add_", "reshape"} <= names and "mul_1" not in names


def test_torch_compile_and_its_setting():
    torch._dynamo.reset()
    for setting, expected in ((True, {"rope": 1}), (["rope"], {"rope": 1}), (False, {})):
        compiled = torch.compile(MODEL, backend="bridge", options={"target": "sm86", "passes": setting})
        with contextlib.suppress(EngineError, EngineInputError):  # built for another GPU, if there is one
            compiled(*arguments())
        assert bridge.report(compiled).plugin_counts() == expected
        torch._dynamo.reset()


def test_fallback_tells_of_passes_too():
    torch._dynamo.reset()
    compiled = torch.compile(MODEL, backend="bridge", options={"target": "sm86", "fallback": True})
    with contextlib.suppress(EngineError, EngineInputError):  # built for another GPU, if there is one
        compiled(*arguments())
    report = bridge.report(compiled)
    assert report.plugin_counts() == {"rope": 1} and [row["pass"] for row in report.passes] == ["rope"]


@pytest.fixture
def torch_tensorrt():
    module = pytest.importorskip("torch_tensorrt", reason="needs torch_tensorrt")
    yield module
    door.unregister()
    door.register()


def on_device():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return tuple(tensor.to(device) for tensor in arguments(dtype=torch.float16))


def compile_theirs(torch_tensorrt):
    args = on_device()
    program = torch.export.export(MODEL, args, dynamic_shapes={"args": DYNAMIC}, strict=False)
    target = None if torch.cuda.is_available() else "sm86"
    with bridge.cross_compile(target):
        return torch_tensorrt.dynamo.compile(program, list(args), min_block_size=1)


def lowering_passes():
    from torch_tensorrt.dynamo.lowering.passes._aten_lowering_pass import ATEN_POST_LOWERING_PASSES

    return [each.__name__ for each in ATEN_POST_LOWERING_PASSES.passes]


def test_torch_tensorrt_has_them_until_unregistered(torch_tensorrt):
    report = bridge.report(compile_theirs(torch_tensorrt))
    assert report.plugin_counts() == {"rope": 1}
    assert [row["what"] for row in report.passes] == ["bridge.rope of queries and keys, half-split, bhsd"]
    torch._dynamo.reset()
    with bridge.cross_compile(None if torch.cuda.is_available() else "sm86") as engines, torch.no_grad():
        compiled = torch.compile(MODEL, backend="torch_tensorrt", options={"min_block_size": 1})
        with contextlib.suppress(EngineError, EngineInputError):
            compiled(*on_device())
    assert [[layer["op"] for layer in door.layers_of(engine) if layer["op"]] for engine in engines] == [["rope"]]
    ours = lowering_passes()
    door.unregister()
    assert [ours[0], *lowering_passes()] == ours and "bridge" in ours[0]
    door.register(passes=False)
    report = bridge.report(compile_theirs(torch_tensorrt))
    assert report.plugin_counts() == {} and report.passes == []


def test_register_checks_the_names():
    with pytest.raises(ValueError, match="passes names 'ropes'"):
        door.register(passes=["ropes"])


def test_graph_of_torch_compile(torch_tensorrt):
    """What torch_tensorrt's backend for torch.compile lowers: traced by AOTAutograd, with placeholders alone."""
    from torch._functorch.aot_autograd import aot_export_module

    module, _ = aot_export_module(MODEL, arguments(), trace_joint=False, decompositions=None)
    outcomes = rewrite_graph(module.graph, ["rope"])
    module.recompile()
    assert [outcome.replaced for outcome in outcomes] == [True]
    assert len(module.graph.find_nodes(op="call_function", target=ROPE)) == 1
    for actual, expected in zip(module(*arguments()), MODEL(*arguments()), strict=True):
        torch.testing.assert_close(actual, expected)


def test_constants():
    table = torch.arange(6.0)

    def compute(x, y):
        known = torch.tensor([[1, 2], [3, 4]]).flip(1)[:, None] * table[1]
        return x * known, known + torch.rand(2, 1, 2), y + table.expand(1000, 6)

    program = export(compute, (torch.randn(2, 2, 2), torch.randn(1000, 6)))
    constants = Constants(passes._constants(program))
    found = {node.name: constants.value(node) for node in program.graph.nodes}
    assert found["mul"].tolist() == [[[2, 1]], [[4, 3]]]
    assert found["mul_1"] is None and found["rand"] is None and found["expand"] is None  # an input, random, large
    assert constants.value(2) is None


@pytest.mark.parametrize("kept", [(), ("placeholder",), ("call_function",)])
def test_graphs_that_were_not_traced_are_left_alone(kept):
    program = export(both(hugging_face), arguments())
    for node in program.graph.nodes:
        if node.op not in kept:
            node.meta.pop("val", None)
    names = [each.name for each in PASSES]
    assert not any(outcome.replaced for outcome in rewrite_graph(program.graph, names))


def test_torch_tensorrt_goes_on_where_a_pass_fails(torch_tensorrt, monkeypatch, caplog):
    def fail(graph, constants):
        raise AssertionError("no such graph")

    monkeypatch.setattr("bridge.passes.PASSES", (Pass("rope", fail),))
    assert bridge.report(compile_theirs(torch_tensorrt)).plugin_counts() == {}
    assert "pass rope left a graph as it is: no such graph" in caplog.text
