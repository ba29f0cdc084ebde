"""What bench says of plugins as engines run them: constants that are kept, and the choice among tactics."""

import json
import math
import runpy
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from bench_rows import CEILINGS, recorded, row

from bridge.bench import ceilings, measure, report, tactics
from bridge.bench.peer import Peer
from bridge.bench.workloads.deform_conv2d import DeformConv2d
from bridge.bench.workloads.detection.nms import Nms
from bridge.bench.workloads.ms_deform_attn import MsDeformAttn
from bridge.bench.workloads.relu import Relu
from bridge.bench.workloads.rope import Rope
from bridge.core.op import OPS
from bridge.engine.timing import Timing
from bridge.testing import plugin_call

RESULTS = Path(__file__).parents[2] / "docs" / "generate_results.py"
SMALL = {"batch": 1, "channels": 8, "size": (5, 6), "out_channels": 8}
ERRORS = {"error": 1e-3, "pytorch_error": 1e-3}


def small(**changes):
    return DeformConv2d("deform_conv2d", "x", "float16", **(SMALL | changes))


@contextmanager
def called(workload, constants=()):
    args, settings = workload.arguments(torch.device("cpu"))
    with plugin_call.plugin_call(OPS[workload.op], args, settings, constants) as call:
        yield call


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_plugin_takes_the_tensors_of_a_call(monkeypatch, channels_last):
    spelt = []
    create = plugin_call.plugin_object.create
    monkeypatch.setattr(
        plugin_call.plugin_object, "create", lambda *given: spelt.append(given[2]["tensors"]) or create(*given)
    )
    with called(small(channels_last=channels_last), ("weight",)) as call:
        call.use(plugin_call.OWN)
        if not torch.cuda.is_available():
            assert call.tactics == [] and call.own is None
    assert spelt == ["x,offset,weight=,bias,mask"]


def test_a_plugin_that_refuses_says_so(capfd):
    args, settings = small().arguments(torch.device("cpu"))
    refusing, meta = OPS["deform_conv2d"], OPS["deform_conv2d"].overload(*(t.to("meta") for t in args), **settings)
    plugin = plugin_call.PluginObject(
        plugin_call.plugin_object.create(refusing.library.plugin_library(), "deform_conv2d", {})
    )
    with pytest.raises(ValueError, match="the plugin refuses these tensors"):
        plugin_call.PluginCall(plugin, args, [torch.empty(meta.shape)])  # without its padding
    assert "deform_conv2d" in capfd.readouterr().err
    with pytest.raises(ValueError, match=r"an engine has no tensor of strides \[240, 30, 1, 5\]"):
        plugin_call._format(args[0].transpose(2, 3).contiguous().transpose(2, 3))


class FakeCall:
    """A plugin with tactics that take these microseconds, of which one is chosen and some give another result."""

    def __init__(self, times, own, result, wrong=()):
        self.times, self.own, self.result, self.wrong = times, own, result, wrong
        self.tactics, self.tactic = [plugin_call.OWN, *times] if times else [], None

    def use(self, tactic):
        self.tactic = tactic

    def __call__(self, args):
        return (self.result + 1 if self.tactic in self.wrong else self.result,)

    @property
    def us(self):
        return self.times[self.own if self.tactic == plugin_call.OWN else self.tactic]


@pytest.fixture
def faked(monkeypatch):
    """Measures a workload by a fake plugin; times in turns are those alone, plus 1. Also what was timed in turns."""
    in_turns = []

    def run(workload, fake):
        args, settings = workload.arguments(torch.device("cpu"))
        fake.result = OPS[workload.op].overload(*args, **settings) if fake.result is None else fake.result

        @contextmanager
        def opened(op, args, settings, constants):
            yield fake

        def compare(engines, inputs, calls):
            for call in calls:
                call()
                in_turns.append(fake.tactic)
                yield Timing(*[fake.us + 1] * 4)

        monkeypatch.setattr(tactics, "plugin_call", opened)
        monkeypatch.setattr(tactics, "compare", compare)
        monkeypatch.setattr(tactics, "time_call", lambda call, _: Timing(*[call.us] * 4))
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        return tactics.measure(workload, args, settings, ERRORS, lambda call: {"us": call.us}), in_turns

    return run


def test_tactics_near_the_fastest_are_timed_in_turns_with_the_choice(faked):
    found, in_turns = faked(small(), FakeCall({0: 90.0, 1: 10.0, 2: 12.0, 3: 20.0}, 3, None))
    assert found == {"engine": {"us": 20.0}, "tactics": {"own": 3, "us": {"-1": 21.0, "0": 90.0, "1": 11.0, "2": 13.0,
                                                                          "3": 20.0}}}  # fmt: skip
    assert in_turns == [plugin_call.OWN, 1, 2]
    assert tactics.behind(found) == pytest.approx(21 / 11) and tactics.fastest(found) == (1, 11.0)


def test_a_tactic_with_another_result_is_wrong(faked):
    found, _ = faked(small(), FakeCall({0: 90.0, 1: 10.0}, 1, None, wrong=[0]))
    assert found["wrong"] == [0] and found["right"] is False
    assert "WRONG: relu, a, float16: error 1.0e-04, of tactics 0" in report.table(
        recorded(row("a", right=False, wrong=[0]))
    )
    found, _ = faked(small(), FakeCall({0: 90.0}, 0, None, wrong=[plugin_call.OWN]))
    assert found["wrong"] == [-1]
    found, _ = faked(small(), FakeCall({0: 90.0}, 0, torch.full((1, 8, 5, 6), math.nan)))
    assert found["wrong"] == [-1, 0]


def test_a_plugin_that_fails_costs_no_row(faked):
    found, _ = faked(small(), type("", (FakeCall,), {"use": lambda *_: 1 / 0})({0: 1.0}, 0, None))
    missing = {"missing": "ZeroDivisionError: division by zero"}
    assert found == {"engine": missing}
    workload = MsDeformAttn("ms_deform_attn", "x", "float16", queries=2, heads=1, head_dim=8, levels=((3, 4),))
    found, _ = faked(workload, type("", (FakeCall,), {"use": lambda *_: 1 / 0})({0: 1.0}, 0, None))
    assert found == {"tactics": missing} and tactics.behind(found) is None
    assert "tactics: ZeroDivisionError" in report.table(recorded(row("a", **found)))


def test_tensors_are_dense_as_engines_have_them():
    x = torch.randn(2, 3, 4, 5)
    last = x.contiguous(memory_format=torch.channels_last)
    assert plugin_call.dense(x) is x and plugin_call.dense(last) is last and plugin_call.dense(None) is None
    turned = plugin_call.dense(x.transpose(1, 2))
    assert turned.is_contiguous() and torch.equal(turned, x.transpose(1, 2))
    workload = Rope("rope", "x", "float32", seq=3, heads=(2, 1), head_dim=8, layout="bhsd", transposed=True)
    args, settings = workload.arguments(torch.device("cpu"))
    assert tactics.measure(workload, args, settings, ERRORS, None) == {}


def test_ops_without_constants_and_tactics_have_nothing_to_say(faked):
    assert faked(Relu("relu", "x", "float16", count=4), FakeCall({}, None, None))[0] == {}
    args, settings = Nms("nms", "x", "float32", count=4).arguments(torch.device("cpu"))
    assert tactics.measure(Nms("nms", "x", "float32", count=4), args, settings, ERRORS, None) == {}


def test_the_table_has_the_engine_and_choices_that_lose():
    us = {"-1": 21.0, "0": 90.0, "1": 11.0}
    slow = row("slow", engine={"us": 77.5}, tactics={"own": 3, "us": us})
    good = row("good", tactics={"own": None, "us": {"-1": 10.4, "0": 10.0}})
    text = report.table(recorded(slow, good, row("none", engine={"missing": "no library"})))
    assert "77.50" in text and "engine: no library" in text
    assert "the own choice of a kernel: within 5% of the fastest in 1 of 2" in text
    assert ["relu", "slow", "float16", "3", "21.00", "1", "11.00", "1.91"] in [
        line.split() for line in text.split("\n")
    ]
    assert report.choices([row()]) == [] and len(report.choices([good])) == 1


def test_results_show_the_engine_and_choices_that_lose(tmp_path):
    path = tmp_path / "nvidia_a_gpu.json"
    results = runpy.run_path(str(RESULTS))
    slow = row("slow", engine={"us": 77.5}, tactics={"own": 3, "us": {"-1": 21.0, "0": 90.0, "1": 11.0}})
    path.write_text(json.dumps(recorded(slow, row("other", engine={"missing": "no library"}))))
    page = "\n".join(results["_ops"](path))
    assert "| µs | cold | engine | % of floor |" in page and "| slow | float16 | 100 | 100 | 77.5 | 80% |" in page
    assert "| other | float16 | 100 | 100 |  | 80% |" in page
    assert "Of 1 workloads whose op has several kernels, its own choice is within 5% of the fastest in 0." in page
    assert "| relu | slow | float16 | 3 | 21.00 | 1 | 11.00 | 1.91 |" in page
    path.write_text(json.dumps(recorded(row("older"))))
    page = "\n".join(results["_ops"](path))
    assert "| engine |" not in page and "Choice of kernels" not in page


# On a GPU


@pytest.mark.gpu
def test_tactics_of_a_convolution_and_of_attention():
    workload = small(batch=2, channels=64, out_channels=64, size=(40, 40))
    found = measure.measure_workload(workload, [Peer("none", "relu", None)], ceilings.refreshed(workload, CEILINGS))
    assert found["right"] and found["engine"]["us"] > 0 and found["engine"]["cold_us"] > 0
    times = found["tactics"]["us"]
    assert str(found["tactics"]["own"]) in times and len(times) > 4 and min(times.values()) > 0
    levels = ((20, 30), (10, 15))
    workload = MsDeformAttn("ms_deform_attn", "x", "float16", queries=300, levels=levels)
    found = measure.measure_workload(workload, [], ceilings.refreshed(workload, CEILINGS))
    assert found["tactics"]["own"] == 1 and set(found["tactics"]["us"]) == {"-1", "0", "1"} and "engine" not in found
