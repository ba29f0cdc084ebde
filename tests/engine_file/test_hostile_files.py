"""Engine files made to do harm: nothing that they name is imported or loaded, and nothing wrong is read."""

import ctypes
import dataclasses
import hashlib
import json
import os
import struct
import sys

import pytest
import torch
from fuzz_files import valid
from generated_row import GENERATED
from headers import KEY, write

import bridge
from bridge import cli
from bridge.base.cache_folder import folder_of
from bridge.bench.baseline import FOLDER, path_of
from bridge.engine.cache import EngineCache
from bridge.engine_file import container
from bridge.errors import EngineError, EngineFileError, EngineInputError
from bridge.tensorrt.install.soname import alias_image

pytree = torch.utils._pytree


def use(path):
    """Everything that a user does with a file, and which error it ends with."""
    try:
        module = bridge.load(path)
        repr(module)
        module.explain(nodes=True, layers=True)
        module(torch.zeros(1))
    except (EngineFileError, EngineError, EngineInputError) as error:
        return error


def torch_text(kind, context):
    """A pytree of one leaf as torch writes it, which older files held."""
    leaf = {"type": None, "context": None, "children_spec": []}
    return json.dumps([1, {"type": kind, "context": context, "children_spec": [leaf]}])


def ways_to_name(module, attribute):
    """Trees that name something of a module, as torch's reader follows it and as this format could hold it."""
    enum = json.dumps([{"__enum__": True, "fqn": f"{module}:{attribute}", "name": "x"}])
    factory = {"default_factory_module": module, "default_factory_name": attribute, "dict_context": ["a"]}
    yield torch_text("builtins.dict", enum)
    yield torch_text("collections.defaultdict", factory)
    for kind, context in (
        ("registered", [f"{module}.{attribute}", None]),
        ("registered", ["collections.defaultdict", factory]),
        ("registered", ["builtins.dict", json.loads(enum)]),
        ("defaultdict", [f"{module}.{attribute}", ["a"]]),
        ("defaultdict", [factory, ["a"]]),
        ("namedtuple", f"{module}.{attribute}"),
        ("dict", json.loads(enum)),
    ):
        yield {"kind": kind, "context": context, "children": ["*"]}


@pytest.mark.parametrize("place", ["in_spec", "out_spec"])
def test_no_module_that_a_file_names_is_imported(tmp_path, monkeypatch, header, place):
    marker = tmp_path / "marker"
    (tmp_path / "hostile_module.py").write_text(f"open({str(marker)!r}, 'w').close()\ndef name(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    header["metadata"] |= {"arguments": ["x"], "input_map": [0]}
    header |= {"inputs": header["inputs"][:1], "outputs": header["outputs"][:1], "output_map": [0]}
    whole = {"in_spec": pytree.treespec_dumps(pytree.tree_structure(((0,), {}))), "out_spec": "*"}
    for tree in ways_to_name("hostile_module", "name"):
        inner = {"kind": "tuple", "context": None, "children": [tree, {"kind": "dict", "context": [], "children": []}]}
        shaped = {place: inner if place == "in_spec" and isinstance(tree, dict) else tree}
        error = use(write(tmp_path / "a.engine", header | whole | shaped))
        assert error is not None
        assert not marker.exists() and "hostile_module" not in sys.modules, tree


def test_no_library_that_a_file_names_is_loaded(tmp_path, header):
    """ctypes.cdll loads what is asked of it as an attribute."""
    library = tmp_path / "hostile_library"
    library.write_bytes(alias_image("libhostile-marker.so", "libc.so.6"))
    header["metadata"] |= {"arguments": ["x"], "input_map": [0]}
    header |= {"inputs": header["inputs"][:1], "output_map": [0], "outputs": header["outputs"][:1]}
    for tree in ways_to_name("ctypes", f"cdll.{library}"):
        for in_spec in (pytree.treespec_dumps(pytree.tree_structure(((0,), {}))), tree):
            assert use(write(tmp_path / "a.engine", header | {"in_spec": in_spec, "out_spec": tree})) is not None
            with pytest.raises(OSError):
                ctypes.CDLL("libhostile-marker.so", mode=os.RTLD_NOLOAD | os.RTLD_NOW)


def test_a_class_that_is_not_known_here_is_named_with_its_package(tmp_path, header):
    tree = {"kind": "registered", "context": ["somewhere.models.Output", ["logits"]], "children": ["*"]}
    path = write(tmp_path / "a.engine", header | {"out_spec": tree, "output_map": [0]})
    module = bridge.load(path)  # which needs no class
    assert "Größe" in module.explain()
    with pytest.raises(EngineError, match=r"somewhere\.models\.Output; import the package that defines it, somewhere"):
        module._structure.unflatten((), [torch.zeros(1)])


@pytest.mark.parametrize(
    "change",
    [
        {"layers": [{"name": "a", "type": 5}]},
        {"layers": [{"name": "a", "type": "CAST", "attributes": []}]},
        {"layers": [{"name": "a", "type": "CAST", "outputs": [5]}]},
        {"layers": [{"name": "a", "type": "CAST", "outputs": [{"name": "y", "dtype": "int8", "shape": 3}]}]},
        {"layers": [{"name": "a", "type": "CAST", "op": ["relu"]}]},
        {"layers": [{"name": "a\ud800", "type": "CAST"}]},
        {"layers": [{"name": "a", "type": "CAST", "attributes": {"a": {"b": 1}}}]},
        {"metadata": {"build_seconds": 10**400}},
        {"metadata": {"build_seconds": float("inf")}},
        {"metadata": {"parameters": 10**4200}},
        {"metadata": {"parameters": True}},
        {"metadata": {"model": ["a"]}},
        {"metadata": {"nodes": [{"name": "a"}]}},
        {"metadata": {"nodes": [5]}},
        {"metadata": {"lowerings": [{"op": "relu"}]}},
        {"metadata": {"passes": [{"pass": []}]}},
        {"metadata": {"generated": [{"name": "acme::norm"}]}},
        {"metadata": {"generated": [GENERATED | {"regions": [{"conditions": "a", "launches": 1}] * 21}]}},
        {"metadata": {"generated": [GENERATED | {"regions": [{"conditions": "a" * 301, "launches": 1}]}]}},
        {"metadata": {"generated": [GENERATED | {"operator": "acme::\x1b[2J"}]}},
        {"metadata": {"generated": [GENERATED | {"inputs": [{"name": "x", "dtype": "int8", "shape": [-1]}]}]}},
        {"metadata": {"generated": [GENERATED | {"cubin_bytes": 1.5}]}},
        {"metadata": {"input_map": [0], "arguments": 5}},
        {"metadata": {"input_map": [0, 5], "arguments": ["x", "y"]}},
        {"metadata": {"arguments": ["x", "pair", "boxes", "mask", "other"]}},
        {"metadata": {"input_map": [{"literal": []}], "arguments": ["x"]}},
        {"metadata": {"other": [[[[[[[[[[[[[[[[[[0]]]]]]]]]]]]]]]]]]}},
        {"metadata": {"cache_key": 5}},
        {"in_spec": "["},
        {"in_spec": ["*"]},
        {"out_spec": {"kind": "dict", "context": [["a"]], "children": ["*"]}},
        {"out_spec": {"kind": "tuple", "context": None, "children": "*"}},
        {"plugins": {"relu\x1b[2J": "1"}},
        {"target": "sm86\x1b[2J"},
        {"flavour": "\ud800"},
        {"inputs": [{"name": "x\x1b", "dtype": "int8", "min": [], "opt": [], "max": []}]},
        {"outputs": [{"name": "y", "dtype": "int8", "shape": [1] * 1000}]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_header_of_wrong_types_is_refused_everywhere_in_the_same_way(tmp_path, capsys, header, change):
    cache = EngineCache(folder_of(None), 1 << 30)
    cache.path(KEY).parent.mkdir(parents=True, mode=0o700)
    if "metadata" in change:
        change = {"metadata": {**header["metadata"], **change["metadata"]}}
    path = write(cache.path(KEY), header | change)
    with pytest.raises(EngineFileError, match="bad header: ") as caught:
        bridge.load(path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000
    for options in ([], ["--json"], ["--nodes", "--layers"]):
        assert cli.main(["explain", str(path), *options]) == 5
    assert cli.main(["cache", "ls"]) == 0 and "damaged" in capsys.readouterr().out
    assert cli.main(["cache", "ls", "--json"]) == 0
    assert cli.main(["cache", "verify"]) == 1
    assert list(cache.verify()) == [path.name]
    assert cache.get_or_build(KEY, valid)[1] is False  # built again


def test_deep_headers_are_refused(tmp_path, header):
    for depth in (65, 500, 5_000):
        tree = "*"
        for _ in range(depth):
            tree = {"kind": "tuple", "context": None, "children": [tree]}
        for name in ("in_spec", "out_spec"):
            text = json.dumps(header | {name: "DEEP"}).replace('"DEEP"', nested(depth))
            encoded = text.encode()
            content = struct.pack("<8sQQQ", container.MAGIC, container.FORMAT, len(encoded), 0) + encoded
            (tmp_path / "a.engine").write_bytes(content + hashlib.sha256(content).digest())
            with pytest.raises(EngineFileError, match="bad header: "):
                bridge.load(tmp_path / "a.engine")


def nested(depth):
    return '{"kind": "tuple", "context": null, "children": [' * depth + '"*"' + "]}" * depth


def test_a_huge_sparse_file_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "a.engine"
    size = 40 << 30
    path.write_bytes(struct.pack("<8sQQQ", container.MAGIC, container.FORMAT, 2, size - 66) + b"{}")
    os.truncate(path, size)
    monkeypatch.setattr(container, "machine_memory", lambda: 8 << 30)
    with pytest.raises(EngineFileError, match="its engine has 42,949,672,894 bytes, and this machine a memory of"):
        bridge.load(path)
    path.write_bytes(struct.pack("<8sQQQ", container.MAGIC, container.FORMAT, size - 64, 0))
    os.truncate(path, size)
    with pytest.raises(EngineFileError, match="its header has 42,949,672,896 bytes, of at most"):
        bridge.load(path)
    path.write_bytes(struct.pack("<8sQQQ", container.MAGIC, container.FORMAT, 60 << 20, size - 64 - (60 << 20)))
    os.truncate(path, size)
    monkeypatch.setattr(container, "machine_memory", lambda: None)
    with pytest.raises(EngineFileError, match="bad header: it is no JSON"):  # before the engine is read
        bridge.load(path)


def test_memory_that_is_not_there_is_an_error_of_the_file(tmp_path, monkeypatch, header):
    write(tmp_path / "a.engine", header)

    def no_memory(*rest):
        raise MemoryError

    monkeypatch.setattr(container, "_check_digest", no_memory)
    with pytest.raises(EngineFileError, match="not enough memory"):
        bridge.load(tmp_path / "a.engine")


def test_the_memory_of_this_machine():
    assert 1 << 28 < container.machine_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_what_a_model_gives_is_refused_when_it_cannot_be_written(tmp_path):
    with pytest.raises(EngineFileError, match="the model of metadata must be str"):
        dataclasses.replace(valid(), metadata={"model": 5})
    with pytest.raises(EngineFileError, match="a number of at most 64 bits"):
        dataclasses.replace(valid(), output_map=[{"literal": 2**70}, *valid().output_map[1:]])


@pytest.mark.parametrize("content", ["", "[" * 100_000, "[]", '{"rows": ', "\x00", "5" * 5000])
def test_files_of_measurements_that_hold_none_are_refused(tmp_path, capsys, content):
    path = tmp_path / "run.json"
    path.write_text(content)
    for command in ("bench", "zoo"):
        assert cli.main([command, "--against", str(path)]) == 2
        err = capsys.readouterr().err
        assert f"{path} is no run of `bridge {command}`" in err and "should not happen" not in err


def test_a_file_of_measurements_names_no_folder():
    for gpu in ("../../elsewhere", "/etc/passwd", "a\0b", "..", "NVIDIA H200"):
        assert path_of(gpu).parent == FOLDER and "/" not in path_of(gpu).name and "\0" not in path_of(gpu).name
    assert path_of("NVIDIA H200").is_file()
