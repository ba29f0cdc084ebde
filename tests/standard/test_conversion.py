"""`bridge compile` for standard TensorRT, up to the build: its bindings take every call and assignment.

Standard TensorRT itself is not here: see recording_tensorrt.py. `make standard` does the same for the whole zoo.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import torch
from signatures import Signatures

HERE = Path(__file__).parent
OLDEST, NEWEST = "10.15.1.29", "11.4.0.106"
ONCE = ("add_grid_sample", "add_cumulative", "add_resize", "add_scatter", "add_plugin_v3", "add_reduce")
# Statements, and what each version says of them.
USES = {
    "network.add_activation(x, trt.ActivationType.RELU)": ("", ""),
    "network.add_activation(input=x, type=trt.ActivationType.RELU)": ("", ""),
    "network.add_activation(x)": ("TypeError", "TypeError"),
    "network.add_activation(x, trt.UnaryOperation.NOT)": ("TypeError", "TypeError"),
    "network.add_activation(x, kind=trt.ActivationType.RELU)": ("TypeError", "TypeError"),
    "network.add_identity(x).get_output(0).name = 3": ("TypeError", "TypeError"),
    "x.dtype = x.dtype": ("", "AttributeError"),
    "trt.ComputeCapability": ("AttributeError", "AttributeError"),
    "config.num_compute_capabilities = 1": ("AttributeError", "AttributeError"),
    "trt.CausalMaskKind": ("AttributeError", ""),
    "trt.BuilderFlag.REQUIRE_USER_ALLOCATION": ("AttributeError", "AttributeError"),
    "trt.IAlgorithmSelector": ("", "AttributeError"),
    "network.add_squeeze(x)": ("TypeError", ""),  # TensorRT-RTX refuses None for axes, too
    "network.add_plugin_v2([x], trt.IPluginV2)": ("TypeError", "TypeError"),
}


@pytest.fixture(scope="module")
def results(declared_files, tmp_path_factory):
    """What convert_as_standard.py reports, by version."""
    if not all(map(find_spec, ("tensorrt_rtx", "torch_tensorrt"))):
        pytest.skip("needs tensorrt_rtx and torch_tensorrt")
    file = tmp_path_factory.mktemp("standard") / "results.json"
    model = f"{HERE / 'every_converter.py'} --lowering relu=plugin,rope=native,deform_conv2d=native"
    statements = [argument for statement in USES for argument in ("--use", statement)]
    command = [
        sys.executable,
        str(HERE / "convert_as_standard.py"),
        "--json",
        str(file),
        "--compile",
        model,
        *statements,
    ]
    path = os.pathsep.join([str(HERE.parent / "support"), os.environ.get("PYTHONPATH", "")])
    files = [str(declared_files(version)) for version in (OLDEST, NEWEST)]
    done = subprocess.run(
        [*command, *files], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {result["version"]: result for result in json.loads(file.read_text())}


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_converts(version, results):
    run = results[version]["runs"][0]
    calls = {name.removeprefix("INetworkDefinition."): count for name, count in results[version]["calls"].items()}
    assert run["plugins"] == {"relu": 1}
    assert {name: calls.get(name) for name in ONCE} == dict.fromkeys(ONCE, 1)
    assert calls["add_rotary_embedding"] == 2
    assert ("add_attention_v2" in calls, "add_attention" in calls) == (version == NEWEST, version == OLDEST)
    assert calls["IPluginCreatorV3One.create_plugin"] == calls["Builder.build_serialized_network"] == 1


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_takes_what_the_version_declares(version, results):
    place = [OLDEST, NEWEST].index(version)
    assert dict(zip(USES, results[version]["uses"], strict=True)) == {use: USES[use][place] for use in USES}


Tensor = type("Tensor", (), {})
SIGNATURES = Signatures(
    vars(SimpleNamespace(ITensor=Tensor, Dims=type("Dims", (), {}), Weights=type("Weights", (), {})))
)
OVERLOADS = [
    {"parameters": [["x", "ITensor", False], ["shape", "Dims", False], ["scale", "float", True]]},
    {
        "parameters": [
            ["x", "list[ITensor]", False],
            ["count", "int", False],
            ["name", "str", True],
            ["on", "bool", True],
        ]
    },
]
X = Tensor()


@pytest.mark.parametrize(
    ("args", "kwargs", "bound"),
    [
        ((X, (1, 2)), {}, ((X, (1, 2)), {})),
        ((X, torch.Size([3]), 2), {}, ((X, (3,), 2), {})),
        ((), {"shape": [numpy.int64(1)], "x": None}, ((None, [1]), {})),
        (([X], 1), {"on": True}, (([X], 1), {"on": True})),
        (([X, None], 1, "y", False), {}, (([X, None], 1, "y", False), {})),
        ((X,), {}, None),
        ((X, (1, 2.0)), {}, None),
        ((X, 3), {}, None),
        ((X, (1,), "2"), {}, None),
        ((X, (1,)), {"x": X}, None),
        ((X, (1,), 1.0, 1.0), {}, None),
        (([X], 1), {"scale": 1.0}, None),
        (([3], 1), {}, None),
        (([X], 1, "y", 1), {}, None),
        (("x", 1), {}, None),
    ],
)
def test_arguments_are_bound_as_declared(args, kwargs, bound):
    if bound is None:
        with pytest.raises(TypeError, match="fit none of"):
            SIGNATURES.bind(OVERLOADS, args, kwargs)
    else:
        assert SIGNATURES.bind(OVERLOADS, args, kwargs) == bound
