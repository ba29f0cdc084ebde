"""What is remembered of measurements: for whom it holds, and which files are trusted."""

import errno
import fcntl
import json
import logging
import multiprocessing
import os
from dataclasses import replace

import pytest
from lowering_models import compiled, measurement, needs_torch_tensorrt

from bridge.config import Config
from bridge.doors.lowerings import measured_lowerings
from bridge.engine.explain import as_json_values
from bridge.tensorrt.install import flavour

pytestmark = needs_torch_tensorrt


def test_what_is_remembered_holds_for_one_gpu_target_and_version():
    config, found = Config(), flavour.detect()
    ours, older = measurement("a"), measurement("a", "plugin", gpu="NVIDIA A2", measured="2025-01-01T00:00:00+00:00")
    others = [measurement("b", target="sm89"), measurement("b", tensorrt="1.0"), measurement("b", bridge="0.0.1")]
    measured_lowerings.FILE.store(config, [ours, older, *others])
    assert measured_lowerings.FILE.load(config, found, "sm86", "NVIDIA A10") == {"a": ours}
    assert measured_lowerings.FILE.load(config, found, "sm86", "NVIDIA A2") == {"a": older}
    assert measured_lowerings.FILE.load(config, found, "sm86", None) == {
        "a": ours
    }  # built elsewhere: the last measured
    assert measured_lowerings.FILE.load(config, found, "sm86", "NVIDIA H100") == {}
    measured_lowerings.FILE.store(config, [newer := replace(ours, native_us=1.0)])
    assert measured_lowerings.FILE.load(config, found, "sm86", "NVIDIA A10") == {"a": newer}
    assert len(json.loads(measured_lowerings.FILE.path_of(config).read_text())["measurements"]) == 5


def test_processes_that_measure_at_once_lose_nothing():
    def store(name):
        for number in range(5):
            measured_lowerings.FILE.store(Config(), [measurement(f"{name} {number}")])

    fork = multiprocessing.get_context("fork")  # a process that imports torch anew takes seconds
    children = [fork.Process(target=store, args=(name,)) for name in ("a", "b", "c")]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0, 0]
    path = measured_lowerings.FILE.path_of(Config())
    assert len(json.loads(path.read_text())["measurements"]) == 15
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # no lock, nothing half written


def test_a_folder_that_cannot_be_written_to_is_an_error(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        measured_lowerings.FILE.store(Config(cache_dir=str(tmp_path / "file")), [measurement("a")])

    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    measured_lowerings.FILE.store(Config(), [measurement("a")])  # which is no obstacle
    assert measured_lowerings.FILE.path_of(Config()).is_file()


def test_a_file_written_by_hand_decides(monkeypatch):
    plain = compiled()
    kinds = {row["kind"]: row["lowering"] for row in plain.file.metadata["lowerings"]}
    assert kinds == dict.fromkeys(kinds, "plugin") and len(kinds) == 2
    first = next(iter(kinds))
    values = vars(measurement(first)) | {"measured": "2026-02-02"}
    path = measured_lowerings.FILE.path_of(Config())
    path.write_text(json.dumps({"format": 1, "measurements": [values]}))
    tuned = compiled()
    assert not tuned.from_cache and tuned.plugin_counts() == {"relu": 1}
    assert [row["lowering"] for row in as_json_values(tuned.file)["lowerings"]] == ["native", "plugin"]
    assert "1 relu  native  measured 12.3 µs a run of the engine, 15.1 µs as plugin, on NVIDIA A10" in tuned.explain()
    path.unlink()
    assert compiled().from_cache  # of the first


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "5", '{"format": 2}', '{"format": 1, "measurements": 5}', '{"format": 1}', "\x00\xff"),
        '{"format": 1, "measurements": [{"kind": 1}]}',
        pytest.param("[" * 100_000, id="deep"),
        pytest.param('{"format": 1, "measurements": [' + "[" * 900 + "]" * 900 + "]}", id="deep measurements"),
        pytest.param(" " * (17 << 20), id="large"),
        pytest.param('{"format": ' + "9" * 5000 + "}", id="a number of 5000 digits"),
    ],
)
def test_a_damaged_file_is_ignored_with_a_warning(content, caplog):
    config, found = Config(), flavour.detect()
    path = measured_lowerings.FILE.path_of(config)
    path.parent.mkdir(parents=True)
    path.write_bytes(content.encode("latin-1"))
    with caplog.at_level(logging.WARNING, "bridge"):
        assert measured_lowerings.FILE.load(config, found, "sm86", None) == {}
    assert str(path) in caplog.text and "ignored" in caplog.text
    measured_lowerings.FILE.store(config, [measurement("a")])
    assert list(measured_lowerings.FILE.load(config, found, "sm86", None)) == ["a"]


@pytest.mark.parametrize(
    "wrong",
    [
        *({"plugin_us": "fast"}, {"plugin_us": 10**400}, {"plugin_us": True}, {"noise_us": None}, {"difference": []}),
        *({"kind": ["a"]}, {"lowering": "fast"}, {"lowering": {}}, {"gpu": "A10\x1b[2J"}, {"gpu": "\ud800"}),
        *({"measured": 2026}, {"another bridge": "knows"}),
    ],
    ids=lambda wrong: f"{next(iter(wrong))}",
)
def test_measurements_of_wrong_types_are_ignored_with_a_warning(wrong, caplog):
    path = measured_lowerings.FILE.path_of(Config())
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"format": 1, "measurements": [vars(measurement("a")) | wrong]}))
    assert measured_lowerings.FILE.load(Config(), flavour.detect(), "sm86", None) == {}
    assert "ignored" in caplog.text and "\x1b" not in caplog.text


def test_what_is_no_file_of_this_user_is_ignored_and_not_waited_for(monkeypatch, caplog):
    path = measured_lowerings.FILE.path_of(Config())
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    assert (
        measured_lowerings.FILE.load(Config(), flavour.detect(), "sm86", None) == {}
        and "no regular file" in caplog.text
    )
    assert compiled().plugin_counts() == {"relu": 2}
    path.unlink()
    path.mkdir()
    assert (
        measured_lowerings.FILE.load(Config(), flavour.detect(), "sm86", None) == {} and "is a directory" in caplog.text
    )
    path.rmdir()
    measured_lowerings.FILE.store(Config(), [measurement("a")])
    uid = os.geteuid()
    os.chown(path, 12345 if uid == 0 else -1, -1)
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    assert (
        measured_lowerings.FILE.load(Config(), flavour.detect(), "sm86", None) == {}
        and "belongs to user" in caplog.text
    )
