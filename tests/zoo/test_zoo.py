"""bridge zoo: the models in models/, their engines without a GPU, and what is made of failures."""

import dataclasses
import importlib
import json
import os
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from bridge import cli
from bridge.cli import zoo_command
from bridge.engine.timing import Timing
from bridge.zoo import entries, measure, memory, run, table
from bridge.zoo.measuring_lock import MeasuringLock

MODELS = Path(__file__).parents[2] / "models"
ZOO = entries.find(MODELS)
# Plugin layers of the small configurations, whose engines are built for a GPU that is not here.
PLUGINS = {
    "llama": {"rope": 2},
    "qwen3": {"rope": 2},
    "mistral": {"rope": 2},
    "gpt_neox": {"rope": 2},
    "deformable_detr": {"ms_deform_attn_fused": 3},
    "rt_detr": {"ms_deform_attn_fused": 2},
    "mask_rcnn, rpn": {},
    "mask_rcnn, heads": {"roi_align": 8},
    "resnet_dcn": {"deform_conv2d": 13},
    "swin": {},
    "relu_net": {"relu": 3},
}
WITH_WEIGHTS = ("llama", "qwen3", "deformable_detr", "mask_rcnn, heads")  # every way in which scripts load them
needs_models = pytest.mark.skipif(
    not all(map(find_spec, ("torch_tensorrt", "torchvision", "transformers"))),
    reason="needs torch_tensorrt, torchvision and transformers",
)
each = pytest.mark.parametrize("entry", ZOO, ids=lambda entry: entry.name)


# The models


def test_every_script_with_a_model_is_in_the_zoo():
    scripts = {path for path in MODELS.glob("*.py") if "\ndef bridge_model(" in path.read_text()}
    assert {entry.path for entry in ZOO} == scripts
    assert {entry.name for entry in ZOO} == set(PLUGINS)
    assert [entry.rank for entry in ZOO] == list(range(1, len(ZOO) + 1))


@needs_models
@each
def test_flags_are_those_of_the_script(entry, monkeypatch):
    monkeypatch.syspath_prepend(str(MODELS))
    script = importlib.import_module(entry.path.stem)
    for flags in (entry.flags(full) for full in (False, True)):
        given = {flag[2:].replace("-", "_") for flag in flags if flag.startswith("--")}
        assert given <= vars(script.parser().parse_args(flags)).keys()  # in full: argparse would take a beginning


@needs_models
@each
def test_one_engine_without_a_gpu(entry):
    kept = []
    row = measure.measure(entry, entry.small, "sm86", lambda row: kept.append(json.dumps(row)))
    bridge_row = row["ways"]["bridge"]
    assert bridge_row.get("plugins") == PLUGINS[entry.name], bridge_row
    assert (bridge_row["engines"], bridge_row["graph_breaks"], bridge_row["target"]) == (1, 0, "sm86") and bridge_row[
        "bytes"
    ] > 1000
    # Passes change roundings in 16 bits; ops that a model has itself are none of theirs.
    least = {"float16": 3e-3, "float32": 1e-5}[row["dtype"]]
    assert 0 < bridge_row["graph_error"] <= least if bridge_row["rewritten"] else bridge_row["graph_error"] == 0
    assert list(row["ways"]) == ["bridge"] and row["parameters"] > 1000 and json.loads(kept[-1]) == row
    assert json.loads(kept[1])["ways"] == {"bridge": {"running": True}}


@needs_models
@pytest.mark.parametrize("entry", [entry for entry in ZOO if entry.name in WITH_WEIGHTS], ids=lambda entry: entry.name)
def test_weights(entry, tmp_path, monkeypatch):
    """A file with all weights makes the model that they come from; one that lacks some is refused."""
    monkeypatch.syspath_prepend(str(MODELS))
    flags = [*entry.small, "--dtype", "float32"]
    namespace = {}
    exec(compile(entry.path.read_text(), str(entry.path), "exec"), namespace)  # once for every seed
    loaded = {}

    def note(model, options):
        loaded[options.seed] = model
        return common_load(model, options)

    import common

    common_load = common.load_weights
    for module in (namespace, vars(__import__("causal_lm"))):
        if "load_weights" in module:
            monkeypatch.setitem(module, "load_weights", note)
    namespace["bridge_model"]([*flags, "--seed", "1"])
    weights = {name: tensor.clone() for name, tensor in loaded[1].state_dict().items()}
    torch.save(weights, tmp_path / "weights.pt")
    namespace["bridge_model"]([*flags, "--seed", "2", "--weights", str(tmp_path / "weights.pt")])
    for name, tensor in loaded[2].state_dict().items():
        torch.testing.assert_close(tensor, weights[name].to(tensor.dtype))
    weights.pop(next(name for name in weights if name.endswith("weight") and "embed_tokens" not in name))
    torch.save(weights, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="lacks: 1 tensors, such as"):
        namespace["bridge_model"]([*flags, "--weights", str(tmp_path / "weights.pt")])


@needs_models
def test_regions_come_from_the_level_of_their_size(monkeypatch):
    monkeypatch.syspath_prepend(str(MODELS))
    import mask_rcnn
    from torchvision.ops import MultiScaleRoIAlign

    torch.manual_seed(0)
    size, batch = 1024, 2
    maps = [torch.randn(batch, 3, size // stride, size // stride) for stride in mask_rcnn.STRIDES]
    rois = mask_rcnn.some_regions(batch, 60, size)
    rois[:, 0] = rois[:, 0].sort().values  # torchvision's stand image by image
    pool = MultiScaleRoIAlign(list(mask_rcnn.LEVELS), 7, 2)
    boxes = [rois[rois[:, 0] == image, 1:] for image in range(batch)]
    expected = pool(dict(zip(mask_rcnn.LEVELS, maps, strict=True)), boxes, [(size, size)] * batch)
    levels = pool.map_levels(boxes)
    assert set(levels.tolist()) == {0, 1, 2, 3}
    torch.testing.assert_close(mask_rcnn.Pyramid(pool)(maps, rois), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu(engines=True)
@needs_models
@each
def test_engines_against_eager(entry, monkeypatch):
    monkeypatch.setattr(measure, "_MEASURE_FUNCTIONS", {"bridge": measure._MEASURE_FUNCTIONS["bridge"]})
    bridge_row = measure.measure(entry, entry.small, None, lambda row: None)["ways"]["bridge"]
    assert bridge_row.get("plugins") == PLUGINS[entry.name], bridge_row
    assert bridge_row["error"] <= 2e-2 and bridge_row["us"] > 0 and bridge_row["cuda_graph"].get("us", 0) > 0, (
        bridge_row
    )


@pytest.mark.gpu(engines=True)
@needs_models
def test_every_way_is_measured():
    (entry,) = entries.find(MODELS, ["relu_net"])
    row = measure.measure(entry, entry.small, None, lambda row: None)
    assert list(row["ways"]) == ["bridge", "eager", "native", "inductor", "torch_tensorrt"]
    for name in ("bridge", "eager", "native", "inductor"):
        backend = row["ways"][name]
        assert 0 < backend["low_us"] <= backend["us"] <= backend["high_us"], (name, backend)
        assert memory.used() is None or 0 < backend["memory_mib"] < 10_000, (name, backend)
    tensorrt_row = row["ways"]["torch_tensorrt"]
    assert "failed" in tensorrt_row or (
        tensorrt_row["us"] > 0 and tensorrt_row["engines"] + tensorrt_row["graph_breaks"] > 0
    )


# What scripts say of themselves


def script(folder, name, text):
    (folder / f"{name}.py").write_text(text)


def test_scripts_are_read_and_not_run(tmp_path):
    script(tmp_path, "a", "raise ValueError\nZOO = [{'rank': 2, 'small': \"--x 'a b'\"}, {'rank': 1, 'part': 'p'}]")
    script(tmp_path, "b", "import nothing_of_that_name")
    first, second = entries.find(tmp_path)
    assert (first.name, second.name, second.small, second.full) == ("a, p", "a", ("--x", "a b"), ())
    assert entries.find(tmp_path, ["p", "no such"]) == [first]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ZOO = [{'smal': ''}]", "ZOO says smal; known are about, full"),
        ("ZOO = [dict(small='')]", "no list of dictionaries of constants"),
        ("ZOO = [3]", "no list of dictionaries of constants"),
        ("x = 1", "no script in .* has a list ZOO"),
        ("ZOO = [{}]", "no model's name holds 'nothing'; there are a"),
    ],
)
def test_tables_that_are_none(tmp_path, text, message):
    script(tmp_path, "a", text)
    with pytest.raises(entries.ZooError, match=message):
        entries.find(tmp_path, ["nothing" if "holds" in message else ""])


# Processes


@needs_models
def test_failures_are_rows(tmp_path):
    """A process that is killed, one that takes too long, one that raises, and one that there is no time for."""
    zoo = "ZOO = [{'rank': %d, 'small': '--a'}]\ndef bridge_model(argv):\n    import os, time, torch\n    %s\n"
    script(tmp_path, "killed", zoo % (1, "os.kill(os.getpid(), 11)"))
    script(tmp_path, "wrong", zoo % (2, "raise ValueError(f'got {argv}')"))
    kept = []
    settings = run.Settings(target="sm86", jobs=2, logs=tmp_path)
    result = run.run(entries.find(tmp_path), settings, lambda so_far, row: kept.append(len(so_far["rows"])))
    killed, wrong = (row["failed"] for row in result["rows"])
    assert killed == "its process ended by SIGSEGV"
    assert wrong.startswith("ModelFileError:") and "got ['--a']" in wrong
    assert "Traceback" in (tmp_path / "wrong.log").read_text()
    assert kept == [1, 2] and json.loads(json.dumps(result)) == result
    slow = run.run(entries.find(tmp_path, ["wrong"]), run.Settings(limit=0.5), lambda *_: None)
    assert [row["failed"] for row in slow["rows"]] == ["not done after 0.5 s"]
    late = run.run(entries.find(tmp_path), run.Settings(within=1e-9), lambda *_: None)
    assert {row["failed"] for row in late["rows"]} == {"not begun: 1e-09 s were over"}


def test_what_was_under_way_failed():
    row = {"model": "m", "ways": {"bridge": {"us": 1.0}, "inductor": {"running": True}}}
    assert run._finished_row(row, "killed") == {
        "model": "m",
        "ways": {"bridge": {"us": 1.0}, "inductor": {"failed": "killed"}},
    }
    assert run._finished_row({"model": "m"}, "killed") == {"model": "m", "failed": "killed"}
    assert run._finished_row({"model": "m", "failed": "first"}, "killed")["failed"] == "first"
    done = {"model": "m", "ways": {"bridge": {"us": 1.0}}}
    assert run._finished_row({**done, "complete": True}, "not done after 300 s") == done


def test_who_measures_is_alone(tmp_path):
    lock, order = MeasuringLock(tmp_path / "lock"), []

    def measure_alone():
        with lock.alone():
            order.append("alone")

    with lock.working(), lock.working():
        thread = threading.Thread(target=measure_alone)
        thread.start()
        thread.join(0.3)
        order.append("worked")
    thread.join(10)
    assert order == ["worked", "alone"]


# Results


def test_differences():
    x = torch.randn(2, 5, 3)
    rows = x[:, [3, 1, 0, 2, 4]]
    assert measure.largest_difference((x,), (x,)) == 0 < measure.largest_difference(rows, x)
    assert measure.largest_difference([rows], [x], unordered=True) == 0
    assert measure.largest_difference(x + 0.5 * x.abs().max(), x) == pytest.approx(0.5)
    assert torch.tensor(measure.largest_difference(x * torch.nan, x)).isnan()


def test_first_lines_of_errors():
    assert measure.first_line(ValueError("\n  one \ntwo")) == "ValueError: one"
    assert measure.first_line(KeyError()) == "KeyError: no message"


RESULT = {
    **{"schema": 1, "gpu": "NVIDIA A GPU", "driver": "1.2", "date": "2026-01-02", "versions": {"torch": "2.11"}},
    "full": True,
    "rows": [
        {
            **{"model": "one", "about": "a size", "argv": ["--x", "1"], "dtype": "float16", "inputs": [[2, 3], [4]]},
            "parameters": 1_500_000,
            "ways": {
                "bridge": {
                    **{"us": 1234.0, "cuda_graph": {"us": 900.0}, "error": 1e-3, "graph_error": 0.0, "engines": 1},
                    **{"graph_breaks": 0, "plugins": {"rope": 2}, "target": "sm90", "tensorrt": "tensorrt_rtx 1.7"},
                    "memory_mib": 512,
                },
                "eager": {"us": 2e4, "memory_mib": 768},
                "native": {"us": 1500.0},
                "inductor": {"failed": "RuntimeError: a | b", "memory_mib": 1024},
                "torch_tensorrt": {"us": 3000.0, "engines": 3, "graph_breaks": 2, "memory_mib": 640},
            },
        },
        {"model": "two", "argv": [], "failed": "not begun"},
    ],
}


def test_the_memory_of_a_process():
    assert memory.of_process(["7, 100", "12, 600", "7, 20"], 7) == 120
    assert memory.of_process(["12, 600"], 7) is None and memory.of_process([], 7) is None
    assert memory.of_process(["7, [N/A]"], 7) is None and memory.of_process(["No devices were found"], 7) is None


def test_memory_is_not_known_without_the_driver(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert memory.used() is None
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho '{os.getpid()}, 42'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert memory.used() == 42
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    assert memory.used() is None


def test_memory_of_a_way(monkeypatch):
    """What the process had before does not count; weights that the backend shares with the model do."""
    model = torch.nn.Linear(1024, 1024, bias=False)
    subject = measure.Subject(ZOO[0], measure.Model(model, (), {}, None), None, None, MeasuringLock(), used=100)
    monkeypatch.setattr(measure, "time_loop", lambda call: Timing(1.0, 1.0, 1.0, 0.0))
    monkeypatch.setattr(memory, "used", lambda: 150)
    assert subject.timing(model)["memory_mib"] == 50
    assert subject.timing(model, own_weights=False)["memory_mib"] == 54
    assert "memory_mib" not in dataclasses.replace(subject, used=None).timing(model)
    monkeypatch.setattr(memory, "used", lambda: None)
    assert "memory_mib" not in subject.timing(model)


def test_tables():
    cells = dict(zip(table.HEADER, table.cells(RESULT["rows"][0]), strict=True))
    assert cells == {
        **{"model": "one", "parameters": "1.5 M", "plugin layers": "2 rope", "engines": "1", "graph breaks": "0"},
        **{"graph error": "0", "error": "1.0e-03", "eager": "20", "Inductor": "failed", "bridge": "1.23"},
        **{"torch_tensorrt": "3 (3 engines, 2 breaks)", "native layers": "1.5", "with a CUDA graph": "0.9"},
    }
    assert table.memory(RESULT)[1:] == [("one", "768", "1024", "640", "", "512")]
    without = [{**row, "ways": {}} for row in RESULT["rows"]]
    assert table.memory({**RESULT, "rows": without}) == [] and "GPU memory, MiB" in table.text(RESULT)
    assert "memory" not in table.markdown({**RESULT, "rows": without})
    late = {"ways": {"torch_tensorrt": {"failed": f"{table.NOT_DONE} after 5 s"}}, "model": "late"}
    assert dict(zip(table.HEADER, table.cells(late), strict=True))["torch_tensorrt"] == "not done"
    assert table.environment_text(RESULT).startswith(
        "NVIDIA A GPU, driver 1.2, torch 2.11, tensorrt_rtx 1.7, 2026-01-02, full"
    )
    assert table.failure_lines(RESULT) == ["one, inductor: RuntimeError: a | b", "two: not begun"]
    assert not table.all_compiled(RESULT) and table.all_compiled({**RESULT, "rows": RESULT["rows"][:1]})
    markdown = table.markdown(RESULT)
    rows = [line for line in markdown.partition("## GPU memory")[0].splitlines() if line.startswith("|")]
    assert (
        len(rows) == 4
        and "| one | 768 | 1024 | 640 |  | 512 |" in markdown
        and {line.replace("\\|", "").count("|") for line in rows} == {len(table.HEADER) + 1}
    )
    assert "- one: `--x 1`, a size, float16, 2x3 and 4" in markdown and "- two: not begun" in markdown


def test_a_run_of_another_machine_is_recorded(tmp_path, capsys):
    (tmp_path / "zoo.json").write_text(json.dumps(RESULT))
    arguments = ["zoo", "--against", str(tmp_path / "zoo.json"), "--models", str(tmp_path), "--record"]
    assert cli.main(arguments) == 1  # a model has no engine
    assert "NVIDIA A GPU" in capsys.readouterr().out
    assert (tmp_path / "README.md").read_text() == table.markdown(RESULT)


def test_later_runs_of_a_model_take_the_place_of_earlier_ones(tmp_path, capsys):
    first, later, other = (tmp_path / f"{name}.json" for name in ("first", "later", "other"))
    first.write_text(json.dumps(RESULT))
    row = RESULT["rows"][0]
    backends = row["ways"] | {"inductor": {"us": 7000.0, "graph_breaks": 0}}
    rows = [{**row, "ways": backends}, {**row, "model": "three", "ways": backends}]
    later.write_text(json.dumps({**RESULT, "date": "2026-01-03", "rows": rows}))
    other.write_text(json.dumps({**RESULT, "gpu": "NVIDIA Another"}))
    cli.main(["zoo", "--models", str(tmp_path), "--against", str(first), str(later)])
    lines = capsys.readouterr().out.splitlines()
    assert "2026-01-03" in lines[0] and [line.split()[0] for line in lines[3:6]] == ["one", "two", "three"]
    assert " 7 " in lines[3] and "failed" not in lines[3]
    assert cli.main(["zoo", "--models", str(tmp_path), "--against", str(first), str(other)]) == 1
    assert "has gpu NVIDIA Another" in capsys.readouterr().err


def test_ways_that_a_later_run_has_no_result_of_are_kept(tmp_path, capsys):
    first, later, changed = (tmp_path / f"{name}.json" for name in ("first", "later", "changed"))
    row = {**RESULT["rows"][0], "failed": "not done after 9 s"}
    first.write_text(json.dumps({**RESULT, "rows": [row]}))
    backends = {
        "eager": {"us": 7000.0},
        "inductor": {"failed": "not done after 3 s"},
        "native": {"failed": "RuntimeError"},
    }
    later.write_text(json.dumps({**RESULT, "rows": [{"model": "one", "argv": row["argv"], "ways": backends}]}))
    found = zoo_command._merged([str(first), str(later)])["rows"]
    assert found == [
        {
            **{name: value for name, value in row.items() if name != "failed"},
            "ways": {**row["ways"], "eager": backends["eager"], "native": backends["native"]},
        }
    ]
    other = {"model": "one", "argv": ["--another"], "ways": backends}
    changed.write_text(json.dumps({**RESULT, "rows": [other]}))
    assert zoo_command._merged([str(first), str(changed)])["rows"] == [other]


@needs_models
def test_single_ways_are_measured(tmp_path, capsys):
    arguments = ["zoo", "--filter", "relu_net", "--target", "sm86", "--json", str(tmp_path / "zoo.json")]
    assert cli.main([*arguments, "--ways", "eager", "torch_tensorrt"]) == 0
    (row,) = json.loads((tmp_path / "zoo.json").read_text())["rows"]
    assert row["ways"] == {} and row["parameters"] > 0  # what runs needs a GPU
    with pytest.raises(SystemExit):
        cli.main([*arguments, "--ways", "onnx"])
    assert "invalid choice: 'onnx'" in capsys.readouterr().err


def test_scripts_are_beside_the_package_or_in_it(tmp_path, monkeypatch):
    package = tmp_path / "site" / "bridge"
    monkeypatch.setattr(entries.bridge, "__file__", str(package / "__init__.py"))
    monkeypatch.setattr(entries, "__file__", str(package / "zoo" / "entries.py"))
    with pytest.raises(entries.ZooError, match=r"no model scripts in .*site/models or .*zoo/models; --models names"):
        entries.folder()
    (tmp_path / "site" / "models").mkdir(parents=True)  # of another package
    installed, beside = package / "zoo" / "models", tmp_path / "site" / "models"
    installed.mkdir(parents=True)
    (installed / "common.py").touch()
    assert entries.folder() == installed
    (beside / "common.py").touch()
    assert entries.folder() == beside


def test_command_line(capsys):
    assert cli.main(["zoo", "--list", "--filter", "detr", "no such"]) == 0
    captured = capsys.readouterr()
    assert f"scripts in {entries.folder()}" in captured.err
    lines = captured.out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["deformable_detr", "rt_detr"] and "--hidden 32" in lines[0]
    assert cli.main(["zoo", "--filter", "nothing"]) == 1
    assert "no model's name holds 'nothing'" in capsys.readouterr().err
    assert cli.main(["zoo", "--models", os.devnull]) == 1
