"""Two shipped libraries that have a plugin in common serve one process, in both orders."""

import json
import shutil
from importlib.util import find_spec

import fresh_process
import hand_written_ops as ops
import pytest
import torch
from torch import nn
from triton_ops import axpy, double

import bridge
from bridge.core.plugin_file import PluginFile
from bridge.doors.module_calls import ListedCall, instances_of
from bridge.errors import LibraryError
from bridge.generate import build, shipping
from bridge.generate.build import plugin_name

needs_rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="needs tensorrt_rtx")

ALONE, COMMON, OTHER = ops.clamped(), ops.counted(), ops.rms_norm()
SCRIPT = """
import json, sys
from pathlib import Path
from bridge.core.library import Library
from bridge.errors import LibraryError
from bridge.generate import folders
from bridge.generate.generated_op import define
from bridge.tensorrt.install.flavour import detect
from bridge.tensorrt.plugins.registration import register_plugins

trt, steps = detect().trt(), []
for folder, name in (each.split("=") for each in sys.argv[1:]):
    path = Path(folder)
    if name:
        row = folders.read(path).op(name)
        tensors = [each["name"] for each in row["inputs"]]
        library = define(f"acme::{name}", row["operator"], tensors, len(row["outputs"]), path, None).library
    else:
        library = Library("acme")
        library.build_in_place(path)
    try:
        register_plugins(trt, [library])
        error = None
    except LibraryError as caught:
        error = str(caught)
    names = [each.name for each in trt.get_plugin_registry().all_creators if each.plugin_namespace == "acme"]
    steps.append([error, sorted(names)])
print(json.dumps(steps))
"""


@pytest.fixture(scope="module")
def folders_of(shared_cache, tmp_path_factory):
    """Writes a library of some instances, once; gives its folder."""
    root = tmp_path_factory.mktemp("shared_plugins")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRIDGE_CACHE_DIR", str(shared_cache))
        chosen = {"one": [ALONE, COMMON], "two": [COMMON, OTHER], "other": [OTHER]}
        folders = {name: shipping.ship(instances, ["sm86"], root / name)[0].path for name, instances in chosen.items()}
    folders["ejected"] = shutil.copytree(folders["two"], root / "ejected")
    description = json.loads((root / "ejected" / "library.json").read_text())
    del description["sha256"]
    (root / "ejected" / "library.json").write_text(json.dumps(description))
    return folders


def register(*steps):
    """Registers the libraries of plugins in a new process: (folder, instance), None for all in it as a user's own
    library. Gives the error and the names of all plugins after each."""
    arguments = [f"{folder}={plugin_name(instance) if instance else ''}" for folder, instance in steps]
    done = fresh_process.run(SCRIPT, *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def names(*instances):
    return sorted(map(plugin_name, instances))


@needs_rtx
def test_the_plugins_that_the_second_library_has_alone_are_registered(folders_of):
    one, two = folders_of["one"], folders_of["two"]
    steps = register((one, ALONE), (two, OTHER), (two, COMMON))
    assert steps == [[None, names(ALONE, COMMON)], *[[None, names(ALONE, COMMON, OTHER)]] * 2]
    steps = register((two, COMMON), (one, COMMON), (one, ALONE))
    assert steps == [*[[None, names(COMMON, OTHER)]] * 2, [None, names(ALONE, COMMON, OTHER)]]


@needs_rtx
def test_a_library_of_the_namespace_loads_beside_generated_plugins_that_no_model_uses(folders_of):
    steps = register((folders_of["one"], ALONE), (folders_of["other"], None))
    assert steps[1] == [None, names(ALONE, COMMON, OTHER)]


@needs_rtx
def test_a_library_that_is_not_generated_is_refused_where_its_plugin_is_taken(folders_of):
    error, registered = register((folders_of["one"], ALONE), (folders_of["two"], None))[1]
    assert f"{plugin_name(COMMON)} came from another library already" in error
    assert registered == names(ALONE, COMMON)


@needs_rtx
def test_an_ejected_library_is_never_replaced_in_silence(folders_of):
    one, two, ejected = folders_of["one"], folders_of["two"], folders_of["ejected"]
    steps = register((ejected, OTHER), (one, ALONE), (ejected, COMMON), (one, COMMON))
    assert [error for error, _ in steps[:3]] == [None] * 3 and steps[2][1] == names(ALONE, COMMON, OTHER)
    assert f"{plugin_name(COMMON)} came from {ejected}" in steps[3][0] and "was ejected" in steps[3][0]
    steps = register((one, COMMON), (ejected, COMMON), (ejected, OTHER), (two, OTHER))
    assert f"{ejected / 'libacme_plugins.so'} may have another version of it" in steps[1][0]
    assert f"{plugin_name(COMMON)} came from another library already" in steps[2][0]
    assert steps[3] == [None, names(ALONE, COMMON, OTHER)]


class Net(nn.Module):
    """Calls three operators, of which each library has the first and one of the others."""

    def forward(self, x):
        return axpy(axpy(double(x), None, 1.25), None, 2.25)


@needs_rtx
def test_an_engine_takes_plugins_from_both(tmp_path, monkeypatch):
    x = torch.ones(7, 33)  # no other test of this process has these plugins
    calls = {"one": (double, (x,)), "two": (axpy, (x, None, 1.25)), "three": (axpy, (x, None, 2.25))}
    one, two, three = (instances_of([ListedCall(name, *call)]) for name, call in calls.items())
    shipping.ship(one + two, ["sm86"], tmp_path / "two")
    shipping.ship(three + one, ["sm86"], tmp_path / "three")
    monkeypatch.setenv("BRIDGE_GENERATED_PATH", f"{tmp_path / 'two'}:{tmp_path / 'three'}")
    monkeypatch.setattr(build, "_build", None)
    compiled = bridge.compile(Net().eval(), (x,), target="sm86", cache=False)
    assert compiled.plugin_counts() == {f"generate_test::{name}": 1 for name in names(*one, *two, *three)}


def test_a_library_of_an_older_bridge_says_what_to_do(folders_of):
    class Older:
        """Without bridge_leave_out."""

    plugins = PluginFile(folders_of["one"] / "libacme_plugins.so")
    plugins._library = Older()
    plugins.leave_out([])
    with pytest.raises(LibraryError, match=r"libacme_plugins\.so was built with an older bridge.*Build it again"):
        plugins.leave_out(["counted"])
