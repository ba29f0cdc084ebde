"""What a process may be without, and still compile: patience of its user, stderr, a folder for temporary files."""

import errno
import io
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import types
from importlib.util import find_spec

import pytest
import torch

import bridge
from bridge import Config, cli
from bridge.base import interrupts, log, third_party_output
from bridge.engine.cache import EngineCache
from bridge.tensorrt.install import flavour
from bridge.tensorrt.network import progress

compiles = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")


def python(code, *arguments, shell="", **variables):
    """A fresh process that runs `code`; `shell` is appended to its command line."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | variables
    command = ["sh", "-c", f'exec "$@" {shell}', "sh", sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)


# Ctrl-C

INTERRUPTED = """
import os, signal, sys, torch
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores Ctrl-C

class Interrupt:
    names = sys.argv[2:]

    def find_spec(self, name, path=None, target=None):
        if name in self.names:
            self.names.remove(name)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
import contextlib

def compile():
    import bridge
    class Net(torch.nn.Module):
        def forward(self, x):
            return bridge.relu(x * 2)
    if sys.argv[1] == "ahead":
        return bridge.compile(Net().eval(), (torch.ones(2, 3),), target="sm86", cache=False)
    model = torch.compile(Net().eval(), backend="bridge", options={"target": "sm86"})
    with torch.no_grad(), contextlib.suppress(bridge.errors.EngineError):  # there may be no GPU to run it on
        model(torch.ones(2, 3))
    return bridge.report(model)

interruptions = 0
while True:
    try:
        found = compile()
        break
    except KeyboardInterrupt:
        interruptions += 1
print(interruptions, Interrupt.names, found)
print(os.readlink("/proc/self/fd/2"))
"""


@compiles
def test_a_process_that_was_interrupted_in_its_imports_compiles():
    modules = [
        "bridge.ops.rope",
        "torch._dynamo.convert_frame",
        "tensorrt_rtx",
        "onnx",
        "torch_tensorrt.dynamo.lowering",
    ]
    child = python(INTERRUPTED, "ahead", *modules)
    assert child.returncode == 0, child.stderr[-3000:]
    count, left, found = child.stdout.split(maxsplit=2)
    assert int(count) >= 3 and left == "[]" and "plugins: 1 relu" in found


@compiles
def test_so_does_one_that_has_no_stderr_by_the_door_of_torch_compile(tmp_path):
    """And what its libraries print is not written into the cached engine, which could have got stderr's number."""
    modules = ["bridge.doors.pipeline", "torch_tensorrt.dynamo.conversion.aten_ops_converters"]
    child = python(INTERRUPTED, "backend", *modules, shell="2>&-", BRIDGE_CACHE_DIR=str(tmp_path), BRIDGE_LOG="debug")
    assert child.returncode == 0
    count, left, found = child.stdout.split(maxsplit=2)
    assert int(count) == 2 and left == "[]" and "plugin layers  1 relu" in found
    assert child.stdout.splitlines()[-1] == "/dev/null"
    cache = EngineCache(tmp_path, 1 << 30)
    assert len(cache.entries()) == 1 and cache.verify() == {}


def test_a_stand_in_for_stderr_does_not_take_its_number():
    """Else libraries would print into the next file that is opened once the stand-in is closed."""
    code = """
import os, sys
from bridge.base import log
with log.some_stderr():
    print(sys.stderr.fileno() > 2)
print(os.readlink("/proc/self/fd/2"))
"""
    assert python(code, shell="2>&-").stdout.split() == ["True", "/dev/null"]


def test_ctrl_c_is_answered_when_the_import_is_done():
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts.deferred():
        with interrupts.deferred():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("inner")
        done.append("outer")
    assert done == ["inner", "outer"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with interrupts.deferred():
        pass


def test_a_handler_of_the_application_is_called(monkeypatch):
    called = []
    before = signal.signal(signal.SIGINT, lambda *arguments: called.append(arguments))
    try:
        with interrupts.deferred():
            os.kill(os.getpid(), signal.SIGINT)
            assert not called
        assert len(called) == 1 and called[0][0] == signal.SIGINT
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with interrupts.deferred():
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_import_as_they_did():
    found = []

    def work():
        with interrupts.deferred():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]


# stderr


def unusable(kind):
    """A stderr that nothing can be written to."""
    if kind == "none":
        return None
    if kind == "closed":
        stream = io.StringIO()
        stream.close()
        return stream
    reading, writing = os.pipe()
    os.close(reading)
    return io.TextIOWrapper(io.FileIO(writing, "w"), write_through=True)


@pytest.mark.parametrize("kind", ["none", "closed", "broken"])
def test_nothing_is_written_where_there_is_no_stderr(kind, monkeypatch):
    stderr = unusable(kind)
    monkeypatch.setattr(sys, "stderr", stderr)
    handlers = list(log.logger.handlers)
    try:
        log.show(logging.INFO)
        log.logger.warning("strange")
    finally:
        log.logger.handlers[:] = handlers
        log.logger.propagate = True
        log.logger.setLevel(logging.NOTSET)
    log.say("hello")
    assert not Config().reports_progress and not log.to_terminal()
    with third_party_output.quiet_import():
        os.write(2, b"")
    _, report = progress.monitor(types.SimpleNamespace(IProgressMonitor=object), shown=True)
    report.start("a", 2)
    report.start("b", 2)
    assert report.step("b")
    report.close()
    assert cli.main(["explain", "/nowhere"]) == 5


@compiles
@pytest.mark.parametrize("kind", ["none", "closed", "broken"])
def test_warnings_of_a_compile_stop_none_without_stderr(kind, tmp_path, monkeypatch):
    class Net(torch.nn.Module):
        def forward(self, x):
            return bridge.relu(x)

    (tmp_path / "file").write_text("in the way")
    stderr = unusable(kind)
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(log.logger, "propagate", False)  # to pytest, so that logging itself writes
    module = bridge.compile(Net().eval(), (torch.ones(2),), target="sm86", cache_dir=str(tmp_path / "file" / "cache"))
    assert module.plugin_counts() == {"relu": 1} and sys.stderr is stderr


# Temporary files


@compiles
def test_no_folder_for_temporary_files_is_an_error_that_says_so(monkeypatch):
    def none():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp', '/var/tmp']")

    monkeypatch.setattr(tempfile, "_get_default_tempdir", none)
    monkeypatch.setattr(tempfile, "tempdir", None)
    found = flavour.detect()
    with pytest.raises(flavour.FlavourError) as caught:
        flavour._import_torch_tensorrt.__wrapped__(found)  # as in a process that has not imported it yet
    assert "No usable temporary directory found in ['/tmp', '/var/tmp']" in str(caught.value)
    assert "set TMPDIR to a folder that can be written to" in str(caught.value)


def test_a_folder_for_temporary_files_that_is_full_or_holds_no_programs(monkeypatch):
    def refused(*rest, **more):
        raise OSError("failed to map segment from shared object: Operation not permitted")

    monkeypatch.setattr(flavour.soname, "provide", refused)
    found = flavour.Flavour("tensorrt_rtx", "1.7.1.116", None)
    with pytest.raises(flavour.FlavourError, match=r"failed to map segment.*; set TMPDIR to a folder .*\(not noexec\)"):
        flavour._provide_parser_name(found)


def test_imports_are_not_held_back_where_there_is_no_room(monkeypatch, capfd):
    def full(*rest, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(third_party_output.tempfile, "TemporaryFile", full)
    with third_party_output.quiet_import():
        os.write(2, b"[Torch-TensorRT] hello\n")
    assert capfd.readouterr().err == "[Torch-TensorRT] hello\n"
