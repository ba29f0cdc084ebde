"""bridge zoo: the models in models/, and their engines without a GPU."""

import importlib
import json

import pytest
import torch
from zoo_models import MODELS, PLUGINS, WITH_WEIGHTS, ZOO, each, needs_models

from bridge import cli
from bridge.zoo import backends, entries, measure, memory


def test_every_script_with_a_model_is_in_the_zoo():
    scripts = {path for path in MODELS.glob("*.py") if "\ndef bridge_model(" in path.read_text()}
    assert {entry.path for entry in ZOO} == scripts - {MODELS / "camera.py"}  # RT-DETR, from files: test_camera.py
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
    least = {"float16": 6e-3, "float32": 1e-5}[row["dtype"]]
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
def test_engines_against_eager(entry):
    bridge_row = measure.measure(entry, entry.small, None, lambda row: None, backends=["bridge"])["ways"]["bridge"]
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
        assert name == "inductor" or backend["cuda_graph"]["us"] > 0, (name, backend)
    modes = row["ways"]["inductor"]["variants"]
    assert list(modes) == list(backends.INDUCTOR_MODES) and all(mode["us"] > 0 for mode in modes.values()), modes
    tensorrt_row = row["ways"]["torch_tensorrt"]
    assert list(tensorrt_row["variants"]) == ["Python runtime", "C++ runtime"]
    assert "failed" in tensorrt_row or (
        tensorrt_row["us"] > 0 and tensorrt_row["engines"] + tensorrt_row["graph_breaks"] > 0
    )


@needs_models
def test_single_ways_are_measured(tmp_path, capsys):
    arguments = ["zoo", "--filter", "relu_net", "--target", "sm86", "--json", str(tmp_path / "zoo.json")]
    assert cli.main([*arguments, "--ways", "eager", "torch_tensorrt"]) == 0
    (row,) = json.loads((tmp_path / "zoo.json").read_text())["rows"]
    assert row["ways"] == {} and row["parameters"] > 0  # what runs needs a GPU
    with pytest.raises(SystemExit):
        cli.main([*arguments, "--ways", "onnx"])
    assert "invalid choice: 'onnx'" in capsys.readouterr().err
