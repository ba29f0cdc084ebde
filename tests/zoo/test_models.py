"""The scripts in models/: one engine each, the plugin layers expected, right at every shape of the profile."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import bridge
from bridge.graph.capture import export
from bridge.graph.shape_profile import input_specs
from bridge.passes import pass_names, rewrite
from bridge.tensorrt.install import gpu
from bridge.tensorrt.install.flavour import detect
from bridge.tensorrt.network.convertible_graph import count_ops
from bridge.zoo import measure
from bridge.zoo.table import BACKENDS

MODELS = Path(__file__).parents[2] / "models"
LLAMA = [
    *("--layers", "2", "--hidden", "64", "--intermediate", "96"),
    *("--heads", "4", "--kv-heads", "2", "--vocabulary", "128"),
]
# Script, flags of a small configuration, plugin layers, and shapes of the first input within its profile.
CASES = [
    pytest.param(
        "relu_net",
        ["--width", "8"],
        {"relu": 3},
        [(1, 3, 32, 32), (2, 3, 96, 96), (3, 3, 64, 128), (5, 3, 40, 56), (8, 3, 128, 32)],
        id="relu_net",
    ),
    pytest.param(
        "resnet_dcn",
        ["--size", "64", "--classes", "10"],
        {"deform_conv2d_fused": 13},
        [(1, 3, 64, 64), (2, 3, 64, 64), (3, 3, 64, 64), (5, 3, 64, 64), (8, 3, 64, 64)],
        id="resnet_dcn",
    ),
    pytest.param(
        "llama",
        LLAMA,
        {"rope": 2},
        [(1, 1), (2, 64), (3, 7), (1, 129), (8, 33)],
        id="llama",
    ),
]
# The same of further ones, whose engines are tests/zoo/test_zoo.py's.
LOWERED = [
    pytest.param("qwen3", [*LLAMA, "--head-dim", "16"], {"rope": 2}, [(1, 1), (3, 7), (8, 33)], id="qwen3"),
    pytest.param(
        "swin",
        ["--width", "24", "--depths", "2", "2", "--heads", "2", "4", "--size", "56", "--classes", "10"],
        {"swin_attention": 4},
        [(1, 3, 56, 56), (5, 3, 56, 56)],
        id="swin",
    ),
    pytest.param(
        "deformable_detr",
        [
            *("--height", "64", "--width", "96", "--layers", "1", "--decoder-layers", "2", "--hidden", "32"),
            *("--heads", "4", "--queries", "10", "--backbone-width", "8", "--depths", "1", "1", "1", "1"),
        ],
        {"ms_deform_attn_fused": 3},
        [(1, 3, 64, 96), (3, 3, 64, 96)],
        id="deformable_detr",
    ),
    pytest.param(
        "basicvsr",
        [
            *("--height", "24", "--width", "32", "--channels", "16", "--groups", "4", "--blocks", "1"),
            *("--batch", "1", "--max-height", "40", "--max-width", "48"),
        ],
        {"deform_conv2d": 1},
        [[(1, channels, *plane) for channels in (16, 16, 16, 2, 2)] for plane in ((16, 48), (33, 17), (40, 48))],
        id="basicvsr",
    ),
]


@pytest.fixture
def script(monkeypatch):
    pytest.importorskip("torchvision", reason="needs torchvision")
    pytest.importorskip("transformers", reason="needs transformers")
    monkeypatch.syspath_prepend(str(MODELS))
    return importlib.import_module


def random_input(example: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    if example.is_floating_point():
        return torch.randn(shape, generator=generator).to(example.dtype)
    return torch.randint(0, int(example.max()) + 1, shape, generator=generator)


@pytest.mark.parametrize(("name", "flags", "plugins", "shapes"), CASES)
def test_one_engine_with_the_plugin_layers_expected(script, name, flags, plugins, shapes, tmp_path):
    model, args, kwargs, dynamic_shapes = script(name).bridge_model(flags)
    compiled = bridge.compile(model, args, kwargs, dynamic_shapes=dynamic_shapes, target="sm86")
    assert compiled.plugin_counts() == plugins
    (spec,) = compiled.inputs
    for shape in shapes:
        assert all(low <= extent <= high for low, extent, high in zip(spec.min, shape, spec.max, strict=True))
    assert spec.min[0] == 1 and spec.max[0] == 8 and compiled.outputs[0].shape[0] == -1
    compiled.save(tmp_path / "model.engine")
    assert bridge.load(tmp_path / "model.engine").layers == compiled.layers


@pytest.mark.parametrize(("name", "flags", "plugins", "shapes"), [*CASES, *LOWERED])
def test_lowered_graph_is_the_model(script, name, flags, plugins, shapes):
    """What is converted, run by PyTorch, gives what the model gives: before any kernel, lowering is right."""
    from bridge.doors.lowered_graph import lowered

    model, args, kwargs, dynamic_shapes = script(name).bridge_model([*flags, "--dtype", "float32"])
    program, _ = rewrite(export(model, args, kwargs, dynamic_shapes), pass_names(True))
    detect().torch_tensorrt()
    with gpu.without_gpu():
        module, _ = lowered(program, input_specs(program))
    assert count_ops(module.graph) == plugins
    for shape in shapes:
        shape_of_each = shape if isinstance(shape, list) else [shape]
        given = [random_input(*each) for each in zip(args, shape_of_each, strict=True)]
        with torch.no_grad():
            actual, expected = module(*given), model(*given)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_script_says_what_is_in_the_engine(tmp_path, script):
    target = [] if torch.cuda.is_available() else ["--target", "sm86"]
    command = [sys.executable, MODELS / "relu_net.py", "--width", "4", *target, "-o", tmp_path / "net.engine"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "relu" in done.stdout and (tmp_path / "net.engine").stat().st_size > 1000


def test_script_measures_what_ways_asks_for(monkeypatch, script):
    relu_net, asked = script("relu_net"), []

    def row(*_, backends):
        asked.append(list(backends))
        return {"model": "relu_net", "about": "", "argv": [], "ways": {}}

    monkeypatch.setattr(measure, "measure", row)
    for flags, expected in (([], list(BACKENDS)), (["--ways", "native", "bridge"], ["native", "bridge"])):
        monkeypatch.setattr(sys, "argv", ["relu_net.py", "--bench", "--target", "sm86", *flags])
        relu_net.finish(relu_net.bridge_model, relu_net.parser())
        assert asked.pop() == expected


def test_script_takes_weights(tmp_path, script):
    relu_net = script("relu_net")
    model = relu_net.ReluNet(4, 10)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    loaded, *_ = relu_net.bridge_model(
        ["--width", "4", "--dtype", "float32", "--weights", str(tmp_path / "weights.pt")]
    )
    for a, b in zip(loaded.state_dict().values(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.gpu(engines=True)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(("name", "flags", "plugins", "shapes"), CASES)
def test_engine_against_eager(script, name, flags, plugins, shapes, dtype):
    from common import TOLERANCE, compare

    model, args, kwargs, dynamic_shapes = script(name).bridge_model([*flags, "--dtype", dtype])
    compiled = bridge.compile(model, args, kwargs, dynamic_shapes=dynamic_shapes)
    assert compiled.plugin_counts() == plugins
    for shape in shapes:
        assert compare(model, compiled, (random_input(args[0], shape),)) <= TOLERANCE[dtype], shape
