"""A generated library is what its instances say: checked in the file itself, without a GPU."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import torch

from bridge.core.device_code import device_codes
from bridge.core.plugin_file import PluginFile
from bridge.errors import OpInputError

CLAMPED = {"mode": 'a"b', "double": (1, 1), "name": [0.5], "negate": True, "low": -1.5, "axes": [1, 2]}


@pytest.fixture(scope="module")
def plugins(generated):
    return PluginFile(generated.folder / "libacme_plugins.so")


def test_schemas_are_the_operators(plugins, generated):
    assert plugins.namespace == "acme"
    assert set(plugins.schemas) == set(generated.names.values())
    schema = torch._C.parse_schema(plugins.schemas[generated.names["clamped"]])
    wanted = torch._C.parse_schema(generated.instances["clamped"].schema)
    assert [(each.name, str(each.type)) for each in schema.arguments] == [
        (each.name, str(each.type)) for each in wanted.arguments
    ]
    assert [each.default_value for each in schema.arguments][2:] == [each.default_value for each in wanted.arguments][
        2:
    ]


def test_shapes_and_dtypes_are_inferred(plugins, generated):
    assert plugins.infer_shapes(generated.names["rms_norm"], [(8, 100), (100,)], {"eps": 1e-6}, 1) == [(8, 100)]
    assert plugins.infer_shapes(generated.names["product"], [(3, 5), (5, 7)], {}, 1) == [(3, 7)]
    assert plugins.infer_shapes(generated.names["counted"], [(3, 5)], {}, 2) == [(8,), (3, 5)]
    assert plugins.infer_shapes(generated.names["clamped"], [(3, 5), None], CLAMPED, 1) == [(3, 5)]
    assert plugins.infer_dtypes(generated.names["rms_norm"], ["float16", "float16"]) == ["float16"]
    assert plugins.infer_dtypes(generated.names["clamped"], ["float32", None]) == ["float32"]


@pytest.mark.parametrize(
    ("op", "shapes", "attributes", "message"),
    [
        ("rms_norm", [(8, 100), (99,)], {"eps": 1e-6}, "weight has shape [99], expected [100]"),
        ("rms_norm", [(8, 100, 1), (100,)], {"eps": 1e-6}, "x has shape [8, 100, 1], expected [8, 100]"),
        ("rms_norm", [(65, 100), (100,)], {"eps": 1e-6}, "x has extent 65 in dimension 0, and the op was generated"),
        ("rms_norm", [(8, 15), (15,)], {"eps": 1e-6}, "x has extent 15 in dimension 1"),
        ("rms_norm", [(8, 100), (100,)], {"eps": 1e-5}, "eps is 1e-05, and the op was generated for 1e-06"),
        ("clamped", [(3, 5), (5,)], CLAMPED, "bias is given, and the op was generated for calls without it"),
        ("clamped", [(3, 5), None], CLAMPED | {"mode": "c"}, 'mode is c, and the op was generated for a"b'),
        ("clamped", [(3, 5), None], CLAMPED | {"axes": [1]}, "axes is [1], and the op was generated for [1, 2]"),
        ("clamped", [(3, 5), None], CLAMPED | {"double": (1, 2)}, "double is [1, 2], and the op was generated for [1"),
        ("clamped", [(3, 5), None], CLAMPED | {"negate": False}, "negate is false, and the op was generated for true"),
        ("product", [(3, 5), (4, 7)], {}, "b has shape [4, 7], expected [5, 7]"),
    ],
)  # fmt: skip
def test_calls_of_another_kind_are_refused(plugins, generated, op, shapes, attributes, message):
    with pytest.raises(OpInputError) as caught:
        plugins.infer_shapes(generated.names[op], shapes, attributes, 1)
    assert str(caught.value).startswith(generated.names[op])
    assert message in str(caught.value)


def test_other_dtypes_are_refused(plugins, generated):
    with pytest.raises(OpInputError, match="weight is float32, expected float16"):
        plugins.infer_dtypes(generated.names["rms_norm"], ["float16", "float32"])


def test_the_loader_sees_code_for_each_target(generated):
    assert [str(code) for code in device_codes(generated.folder / "libacme_plugins.so")] == ["sm_86", "sm_90a"]


def test_the_library_needs_nothing_but_the_system(generated):
    library = str(generated.folder / "libacme_plugins.so")
    dynamic = subprocess.run(["readelf", "-dW", library], capture_output=True, text=True, check=True).stdout
    needed = set(re.findall(r"NEEDED.*\[([^.\]]+)", dynamic))
    assert needed <= {"libstdc++", "libgcc_s", "libc", "libm", "libpthread", "libdl", "librt", "ld-linux-x86-64"}
    symbols = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    exported = {line.split()[2] for line in symbols.splitlines()}
    assert {"getCreators", "setLoggerFinder", "bridge_num_ops"} <= exported
    assert all(name.startswith(("bridge_", "getCreators", "setLoggerFinder")) for name in exported)


def test_what_is_in_it_is_described(generated):
    described = json.loads((generated.folder / "library.json").read_text())
    assert described["targets"] == ["sm86", "sm90"]
    by_name = {op["name"]: op for op in described["ops"]}
    norm = by_name[generated.names["rms_norm"]]
    assert norm["inputs"][0] == {"name": "x", "dtype": "float16", "shape": ["n0", "n1"]}
    assert norm["symbols"][1] == {"name": "n1", "input": 0, "axis": 1, "low": 16, "high": 4096}
    assert norm["workspace_bytes"] == 256  # 64 rows of 4 bytes
    assert [region["conditions"] for region in norm["regions"]] == [["n1 <= 512"], []]
    kernel = norm["kernels"][0]
    assert kernel["function"] == "row_scale"
    assert kernel["file"].endswith("hand_written_kernels.py")
    assert "def row_scale" in Path(kernel["file"]).read_text().splitlines()[kernel["line"] - 1]
    assert kernel["targets"]["sm86"]["cubin_bytes"] > 1000
    assert by_name[generated.names["tiled"]]["workspace_bytes"] == 4 * 64 * 256  # for each of 4 x 64 programs


def test_fat_binaries_are_compressed(generated):
    described = json.loads((generated.folder / "library.json").read_text())
    cubins = sum(t["cubin_bytes"] for op in described["ops"] for k in op["kernels"] for t in k["targets"].values())
    joined = sum(path.stat().st_size for path in (generated.folder / "sources").glob("*.fatbin"))
    assert joined < cubins / 2


def test_configurations_that_no_gpu_has_room_for_are_left_out(generated):
    described = json.loads((generated.folder / "library.json").read_text())
    (product,) = [op for op in described["ops"] if op["name"] == generated.names["product"]]
    targets = {tuple(kernel["targets"]) for kernel in product["kernels"] if kernel["constants"]["BN"] == "256"}
    assert ("sm90",) in targets
