"""bridge build-ops: libraries to ship, and engines that find them."""

import contextlib
import dataclasses
import io
import json
import shutil
import sys

import hand_written_ops
import pytest
import torch
from generated_row import GENERATED
from torch import nn
from torch.export import Dim
from triton_ops import double

import bridge
from bridge import cli
from bridge.base import log
from bridge.core.device_code import device_codes
from bridge.core.op import OPS
from bridge.core.plugin_file import PluginFile
from bridge.doors import module_calls
from bridge.engine_file.contents import EngineFile
from bridge.errors import EngineError, LibraryError
from bridge.generate import build as building
from bridge.generate import folders, shipping, store
from bridge.tensorrt.install import flavour
from bridge.tensorrt.run.engine import check_compatible

CALLS = """
import torch
from triton_ops import double
from torch.export import Dim

bridge_calls = [(double, (torch.ones(8, 64),), {}, {"x": {0: Dim("rows", min=1, max=16)}})]
none = 5
def nothing():
    return torch.ones(2)
"""


class Net(nn.Module):
    def forward(self, x):
        return double(x + 1)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module of calls, and gives its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def module(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        return name

    yield module
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture(scope="module")
def shipped(shared_cache, tmp_path_factory):
    """The folder of a library of `double` in two dtypes, and what the command printed."""
    root = tmp_path_factory.mktemp("shipped")
    (root / "shipped_calls.py").write_text(CALLS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRIDGE_CACHE_DIR", str(shared_cache))
        patch.chdir(root)
        patch.setattr(sys, "path", [*sys.path])
        options = ["--targets", "sm86,sm120", "--dtypes", "float32,float16", "--sources", "--json", "-o", "plugins"]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert cli.main(["build-ops", "shipped_calls", *options]) == 0
    return root / "plugins", json.loads(printed.getvalue())


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A machine with an empty cache, where nothing can be built."""
    monkeypatch.setenv("BRIDGE_CACHE_DIR", str(tmp_path / "empty"))

    def fail(*arguments):
        raise AssertionError("it is built")

    monkeypatch.setattr(building, "_build", fail)


def test_a_library_is_written_and_told(shipped):
    folder, told = shipped
    assert sorted(path.name for path in folder.iterdir()) == [
        "libgenerate_test_plugins.so",
        "library.json",
        "sources",
    ]
    library = folder / "libgenerate_test_plugins.so"
    assert [str(code) for code in device_codes(library)] == ["sm_86", "sm_120a"]
    assert told["libraries"][0]["file"].endswith("plugins/libgenerate_test_plugins.so")
    assert told["libraries"][0]["bytes"] == library.stat().st_size
    assert len(PluginFile(library).schemas) == 2
    assert [(row["operator"], row["target"]) for row in told["plugins"]] == [
        ("generate_test::double", target) for _ in range(2) for target in ("sm86", "sm120")
    ]
    for row in told["plugins"]:
        assert row["kernels"] > 0 and row["bytes"] > 2 * row["compressed"] > 0
    assert sorted(row["dtypes"] for row in told["plugins"][::2]) == [["float16"], ["float32"]]


def test_what_is_shipped_does_not_fill_the_cache(shipped):
    assert shipped[0] not in [each.path for each in folders.cached()]
    names = {row["plugin"].partition("::")[2] for row in shipped[1]["plugins"]}
    assert not names & {op["name"] for each in folders.cached() for op in each.ops}


def test_an_engine_takes_a_shipped_plugin_instead_of_building_one(shipped, elsewhere, monkeypatch):
    folder, told = shipped
    monkeypatch.setenv("BRIDGE_GENERATED_PATH", f"/nowhere:{folder.parent}")  # of the folder, or of one around it
    sizes = ({0: Dim("rows", min=1, max=16)},)
    compiled = bridge.compile(Net().eval(), (torch.ones(8, 64),), dynamic_shapes=sizes, target="sm86")
    (name,) = compiled.plugin_counts()
    assert name in {row["plugin"] for row in told["plugins"]}
    (row,) = compiled.file.metadata["generated"]
    assert (row["name"], row["operator"]) == (name, "generate_test::double")
    assert row["library_bytes"] == told["libraries"][0]["bytes"]


def test_a_plugin_is_restored_from_a_shipped_library(shipped, elsewhere, monkeypatch):
    folder, told = shipped
    name = next(row["plugin"] for row in told["plugins"] if row["dtypes"] == ["float16"])
    store.restore(name, "sm86")
    assert name not in OPS
    monkeypatch.setenv("BRIDGE_GENERATED_PATH", str(folder))
    store.restore(name, "sm90")
    assert name not in OPS, "it has no code for sm90"
    store.restore(name, "sm120")
    assert OPS[name].operator == "generate_test::double"
    assert OPS[name].library.plugin_library().parent == folder


@pytest.mark.parametrize(
    ("damage", "message"),
    [("library", "is not as"), ("description", "is no generated library"), ("keys", "the ops of it must be list")],
)
def test_a_damaged_library_is_passed_over_with_a_warning(shipped, tmp_path, monkeypatch, caplog, damage, message):
    folder = shutil.copytree(shipped[0], tmp_path / "copy")
    monkeypatch.setenv("BRIDGE_GENERATED_PATH", str(folder))
    name = shipped[1]["plugins"][0]["plugin"]
    assert folders.holding(name, "sm86", only_shipped=True)
    if damage == "library":
        (folder / "libgenerate_test_plugins.so").write_bytes(b"\x7fELF")
    elif damage == "description":
        (folder / "library.json").write_text("[")
    else:
        described = json.loads((folder / "library.json").read_text())
        (folder / "library.json").write_text(json.dumps(described | {"ops": 5}))
    assert folders.holding(name, "sm86", only_shipped=True) is None
    assert message in caplog.text


def test_what_is_wrong_with_a_folder_is_said_once(shipped, tmp_path, monkeypatch, caplog):
    damaged = shutil.copytree(shipped[0], tmp_path / "damaged") / "libgenerate_test_plugins.so"
    damaged.write_bytes(b"\x7fELF")
    monkeypatch.setenv("BRIDGE_GENERATED_PATH", f"{tmp_path / 'none'}:{damaged.parent}:{shipped[0]}")
    log.warn_once.cache_clear()
    for name in [*{row["plugin"] for row in shipped[1]["plugins"]}] * 2:  # as models with several plugins ask
        assert folders.holding(name, "sm86").path == shipped[0]
        assert folders.holding(name, "sm90", only_shipped=True) is None
    warnings = sorted(record.getMessage() for record in caplog.records)
    assert warnings == sorted(
        [
            f"BRIDGE_GENERATED_PATH names {tmp_path / 'none'}, which has no library.json",
            f"{damaged} is not as {damaged.parent / 'library.json'} describes it, and is not used",
            f"BRIDGE_GENERATED_PATH: {shipped[0] / damaged.name} is not used for sm90: it holds code for sm_86, "
            "sm_120a, none of which runs on sm90",
        ]
    )


def test_an_engine_without_its_library_says_what_to_do(make_engine_file):
    here = flavour.detect()
    row = GENERATED | {"name": "nobody::norm_0123456789ab", "operator": "nobody::norm"}
    file = make_engine_file(
        flavour=here.name, tensorrt_version=here.version, plugins={row["name"]: "1"}, metadata={"generated": [row]}
    )
    with pytest.raises(EngineError, match=r"norm_0123456789ab, that bridge generated from nobody::norm for sm86") as e:
        check_compatible(file, here)
    assert "compile the model again here" in str(e.value) and "BRIDGE_GENERATED_PATH" in str(e.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "bridge_calls is None, expected a list, or a function"),
        ("bridge_calls = []", r"bridge_calls is [], expected a list"),
        ("bridge_calls = [5]", r"bridge_calls[0] is 5, expected (operator, args, kwargs"),
        ("bridge_calls = [(print, 5)]", r"bridge_calls[0]: args is a int"),
        ("raise KeyError('k')", "KeyError: 'k'"),
        ("import no_such_module", "ModuleNotFoundError"),
        (
            "import torch\ndef f(x): return x + 1\ndef bridge_calls(): return [(f, (torch.ones(2),))]",
            r"f (calls_of_test.bridge_calls[0]) needs no generated plugin",
        ),
        (
            "import torch, triton_ops\nbridge_calls = [(triton_ops.double, (torch.ones(2),), {}, {'y': {}})]",
            r"generate_test::double (calls_of_test.bridge_calls[0]): torch.export cannot capture",
        ),
    ],
)
def test_calls_that_cannot_be_are_refused_by_name(module, capsys, text, message):
    name = module("calls_of_test", text)
    code = cli.main(["build-ops", name, "--targets", "sm86", "-o", "plugins"])
    assert code in (1, 6)
    assert message in capsys.readouterr().err


def test_a_target_that_is_none_is_refused_first(module, capsys):
    name = module("calls_of_target", "raise AssertionError")
    assert cli.main(["build-ops", name, "--targets", "sm86,sm1", "-o", "plugins"]) == 2
    assert "the target is 'sm1'" in capsys.readouterr().err


def test_a_dtype_that_is_none_is_refused(capsys):
    with pytest.raises(SystemExit):
        cli.main(["build-ops", "m", "--targets", "sm86", "--dtypes", "float32,int4", "-o", "plugins"])
    assert "int4: expected some of float32" in capsys.readouterr().err


def test_nothing_of_the_users_is_overwritten(tmp_path, shipped):
    (tmp_path / "sources").mkdir()
    with pytest.raises(LibraryError, match="has a folder 'sources' already"):
        shipping._check(tmp_path, "acme")
    with pytest.raises(LibraryError, match="holds a library of generate_test, not of acme"):
        shipping._check(shipped[0], "acme")
    shipping._check(shipped[0], "generate_test")
    (tmp_path / "file").touch()
    with pytest.raises(LibraryError, match="is no folder"):
        shipping._check(tmp_path / "file", "acme")


def test_a_cached_engine_tells_of_its_plugins(shipped, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BRIDGE_GENERATED_PATH", str(shipped[0]))
    sizes = ({0: Dim("rows", min=1, max=16)},)

    def compiled():
        return bridge.compile(Net().eval(), (torch.ones(8, 64),), dynamic_shapes=sizes, target="sm86")

    first, second = compiled(), compiled()
    assert second.from_cache
    assert second.file.metadata["generated"] == first.file.metadata["generated"]
    second.save(tmp_path / "a.engine")
    assert EngineFile.load(tmp_path / "a.engine").metadata["generated"] == first.file.metadata["generated"]
    assert cli.main(["explain", str(tmp_path / "a.engine"), "--layers"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "generated plugins: 1 generate_test::double generate_test::double_" in text
    assert "input x float32 [n0: 1 to 16, 64]" in text
    assert "triton_ops.py:" in text


def test_operators_of_torch_without_a_converter(module):
    """Whose first parameter is called self; and a function around some."""
    name = module(
        "calls_of_torch",
        "import torch\nfrom torch.export import Dim\n"
        "def odd(x): return torch.lgamma(x) + 1\n"
        "rows = {0: Dim('rows', min=1, max=9)}\n"
        "bridge_calls = [(odd, (torch.ones(4, 4),)),\n"
        "  (torch.ops.aten.lgamma, (torch.ones(4, 4),), {}, {'input': rows})]",
    )
    instances = module_calls.instances_of(module_calls.calls_of(name))
    assert [each.operator for each in instances] == ["inductor::lgamma"] * 2
    assert [len(each.symbols) for each in instances] == [0, 1]


def test_several_namespaces_have_a_folder_each(tmp_path, monkeypatch):
    counted = hand_written_ops.counted()
    other = dataclasses.replace(counted, operator="other::counted")
    built = shipping.ship([counted, other, counted], ["sm86"], tmp_path / "both")
    assert [each.path for each in built] == [tmp_path / "both" / "acme", tmp_path / "both" / "other"]
    assert [len(each.ops) for each in built] == [1, 1] and not (built[0].path / "sources").exists()
    monkeypatch.setenv("BRIDGE_GENERATED_PATH", str(tmp_path / "both"))
    assert [each.namespace for each in folders.shipped()] == ["acme", "other"]
    again = shipping.ship([other], ["sm86"], tmp_path / "both" / "other", sources=True)
    assert again[0].is_whole() and (again[0].path / "sources").is_dir()
