"""Engine files: what is saved comes back, and whatever is wrong with a file is said, not crashed on."""

import dataclasses
import json
import os
import random
import struct
import threading

import pytest

from bridge.engine_file import container
from bridge.engine_file.contents import EngineFile, TensorSpec
from bridge.errors import EngineFileError

PREAMBLE, DIGEST = 32, 32


@pytest.fixture
def make(make_engine_file):
    return make_engine_file


def names(folder):
    return [path.name for path in folder.iterdir()]


@pytest.fixture
def saved(tmp_path, make):
    path = tmp_path / "model.engine"
    make().save(path)
    return path


def damaged(path, content):
    path.write_bytes(content)
    with pytest.raises(EngineFileError) as caught:
        EngineFile.load(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def with_header(path, header, version=container.FORMAT):
    """A file whose frame and checksum are right, around any header."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    container.write(path, {}, b"engine")
    content = struct.pack("<8sQQQ", container.MAGIC, version, len(encoded), 6) + encoded + b"engine"
    return content + container.hashlib.sha256(content).digest()


def header_of(path):
    return container.read(path)[0]


@pytest.mark.parametrize("name", ["str", "Path", "relative"])
def test_round_trip(tmp_path, name, monkeypatch, make):
    monkeypatch.chdir(tmp_path)
    path = {"str": str(tmp_path / "a"), "Path": tmp_path / "a", "relative": "a"}[name]
    file = make()
    file.save(path)
    assert EngineFile.load(path) == file
    assert names(tmp_path) == ["a"]


def test_round_trip_without_tensors(tmp_path, make):
    file = make(inputs=(), outputs=(), layers=[], output_map=[], plugins={}, metadata={})
    file.save(tmp_path / "a")
    assert EngineFile.load(tmp_path / "a") == file


def test_unknown_header_keys_are_ignored(saved):
    content = with_header(saved, header_of(saved) | {"added_later": [1]})
    saved.write_bytes(content)
    assert EngineFile.load(saved).engine == b"engine"


def test_repr_leaves_the_engine_out(make):
    assert len(repr(make(engine=bytes(10_000)))) < 1500


def test_save_follows_a_link_and_honours_the_umask(tmp_path, make):
    (tmp_path / "link").symlink_to("target")
    before = os.umask(0o027)
    try:
        make().save(tmp_path / "link")
    finally:
        os.umask(before)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").stat().st_mode & 0o777 == 0o640


def test_a_failed_save_leaves_the_old_file_and_no_other(saved, monkeypatch, make):
    before = saved.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(container.os, "fsync", full)
    with pytest.raises(EngineFileError, match=r"cannot write .*model\.engine: No space left on device"):
        make(target="sm89").save(saved)
    assert saved.read_bytes() == before
    assert names(saved.parent) == ["model.engine"]


def test_save_into_a_folder_that_is_not_there(tmp_path, make):
    with pytest.raises(EngineFileError, match=r"cannot write .*: No such file or directory"):
        make().save(tmp_path / "none" / "a")


def test_save_over_a_folder(tmp_path, make):
    (tmp_path / "a").mkdir()
    with pytest.raises(EngineFileError, match=r"cannot write .*: Is a directory"):
        make().save(tmp_path / "a")
    assert names(tmp_path) == ["a"]


def test_save_refuses_what_is_not_json(tmp_path, make):
    with pytest.raises(EngineFileError, match="JSON values only: Object of type object"):
        make(metadata={"bad": object()}).save(tmp_path / "a")
    assert names(tmp_path) == []


def test_savers_and_loaders_at_once(saved, make):
    """Readers see one whole file or another, never a mixture."""
    versions = [make(target=f"sm{n}", engine=bytes([n]) * 50_000) for n in (80, 86)]
    versions[0].save(saved)
    savers = [threading.Thread(target=lambda v=v: [v.save(saved) for _ in range(20)]) for v in versions]
    for thread in savers:
        thread.start()
    while any(thread.is_alive() for thread in savers):
        assert EngineFile.load(saved) in versions
    for thread in savers:
        thread.join()
    assert names(saved.parent) == ["model.engine"]


def test_every_truncation_is_an_error(saved):
    whole = saved.read_bytes()
    header = struct.unpack_from("<8sQQQ", whole)[2]
    borders = [0, 8, 16, 24, PREAMBLE, PREAMBLE + header, len(whole) - DIGEST, len(whole)]
    for size in {size for border in borders for size in (border - 1, border, border + 1) if 0 < size < len(whole)}:
        message = damaged(saved, whole[:size])
        assert "truncated" in message
        assert f"{size:,}" in message
    assert f"expected {len(whole):,} bytes, but the file has {len(whole) - 1:,}" in damaged(saved, whole[:-1])


def test_every_flipped_bit_is_an_error(saved):
    whole = saved.read_bytes()
    chosen = random.Random(1)
    for offset in [*range(PREAMBLE), *(chosen.randrange(len(whole)) for _ in range(200)), *range(-DIGEST, 0)]:
        flipped = bytearray(whole)
        flipped[offset] ^= 1 << chosen.randrange(8)
        damaged(saved, bytes(flipped))


def test_a_flipped_bit_in_the_engine_is_named_a_checksum(saved):
    whole = bytearray(saved.read_bytes())
    whole[-DIGEST - 500] ^= 16
    assert "damaged: its checksum is" in damaged(saved, bytes(whole))


def test_bytes_after_the_end(saved):
    assert "damaged: expected" in damaged(saved, saved.read_bytes() + b"x")


def test_absurd_lengths_allocate_nothing(saved):
    for lengths in ((2**60, 0), (0, 2**60), (2**64 - 1, 2**64 - 1)):
        content = struct.pack("<8sQQQ", container.MAGIC, 1, *lengths) + bytes(100)
        assert "truncated or damaged: expected" in damaged(saved, content)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"hello", "not a bridge engine: it starts with b'hello'"),
        (b"ftrt" + bytes(100), "a bare TensorRT engine"),
        (b"PK\x03\x04" + bytes(100), "a zip archive"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x08\x09" + bytes(100), "perhaps an ONNX model"),
    ],
)
def test_other_files(tmp_path, content, words):
    assert words in damaged(tmp_path / "a", content)


def test_missing_file(tmp_path):
    with pytest.raises(EngineFileError, match=r"none\.engine: cannot read it: No such file or directory"):
        EngineFile.load(tmp_path / "none.engine")


def test_directory(tmp_path):
    with pytest.raises(EngineFileError, match="is a directory, not an engine file"):
        EngineFile.load(tmp_path)


def test_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(EngineFileError, match="is no regular file"):
        EngineFile.load(tmp_path / "pipe")


def test_newer_format_names_the_version_that_reads_it(saved):
    content = with_header(saved, {"metadata": {"bridge": "9.3"}}, version=3)
    assert "format 3 is newer than this bridge reads (2); bridge 9.3 wrote it" in damaged(saved, content)
    assert "a newer bridge reads it: update bridge" in damaged(saved, with_header(saved, b"\xff", version=7))
    for older in (0, 1):  # 1 has pytrees as torch writes them, which may name what shall be imported
        words = f"format {older} is older than this bridge reads (2); compile the model again"
        assert words in damaged(saved, with_header(saved, {}, version=older))


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"])
def test_header_that_is_no_json(saved, content):
    assert "bad header: it is no JSON" in damaged(saved, with_header(saved, content))


def test_header_that_is_no_object(saved):
    assert "bad header: a list, no object" in damaged(saved, with_header(saved, [1]))


@pytest.mark.parametrize("key", [f.name for f in dataclasses.fields(EngineFile) if f.name != "engine"])
def test_header_that_lacks_a_key_or_has_another_type(saved, key):
    good = header_of(saved)
    assert f"bad header: it lacks {key}" in damaged(
        saved, with_header(saved, {k: v for k, v in good.items() if k != key})
    )
    assert f"bad header: {key} must be" in damaged(saved, with_header(saved, good | {key: 5}))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("inputs", [5], "inputs[0] must be dict, not int"),
        ("inputs", [{"name": "x"}], "inputs[0] lacks dtype, min, opt, max"),
        ("outputs", [{"name": "y", "dtype": "float16"}], "outputs[0] lacks shape"),
        ("outputs", [{"name": "y", "dtype": "complex64", "shape": []}], "dtype 'complex64' is none of float32,"),
        ("outputs", [{"name": "y", "dtype": [], "shape": []}], "dtype must be str, not tuple"),
        ("outputs", [{"name": "y", "dtype": "int8", "shape": [-2]}], "every extent must be an integer of at least -1"),
        ("layers", [{"name": "a"}], "the type of layers[0] must be str"),
        ("plugins", {"relu": 1}, "plugins[0] must be str, not int"),
        ("output_map", [1], "output_map[0] is 1; expected the index of one of 1 outputs"),
        ("output_map", [True], "output_map[0] is True"),
        ("output_map", [{"input": 2}], "output_map[0] is {'input': 2}"),
        ("output_map", [{"literal": []}], "output_map[0] is {'literal': []}"),
        ("output_map", [{"literal": 1, "input": 0}], "output_map[0]"),
    ],
)
def test_header_with_a_bad_value(saved, key, value, words):
    message = damaged(saved, with_header(saved, header_of(saved) | {key: value}))
    assert "bad header: " in message
    assert words in message


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        (((2,), (1,), (3,)), "not min <= opt <= max: min (2,), opt (1,), max (3,)"),
        (((1,), (4,), (3,)), "not min <= opt <= max"),
        (((1,), (1, 2), (3,)), "ranks differ: min (1,), opt (1, 2), max (3,)"),
        (((-1,), (1,), (3,)), "min is (-1,); every extent must be an integer of at least 0"),
        (((True,), (1,), (3,)), "every extent must be an integer"),
        (((1,), (1.0,), (3,)), "every extent must be an integer"),
        (((1,), (1,), (2**63,)), "every extent must be an integer"),
        (([1], (1,), (3,)), "min must be tuple, not list"),
    ],
)
def test_bad_profile(bounds, words):
    with pytest.raises(EngineFileError) as caught:
        TensorSpec("x", "float32", *bounds)
    assert "input 'x': " in str(caught.value)
    assert words in str(caught.value)


def test_dynamic():
    assert not TensorSpec("x", "float32", (1, 2), (1, 2), (1, 2)).dynamic
    assert TensorSpec("x", "float32", (1, 2), (1, 2), (3, 2)).dynamic
