"""What importing TensorRT and torch_tensorrt changes, and what is put back."""

import contextlib
import ctypes
import importlib.metadata
import logging
import os
import sys
import threading
import types
import warnings

import pytest
import torch

from bridge.base import third_party_output
from bridge.tensorrt.install import gpu, soname, version_shims

STUBBED = ("get_device_capability", "current_device", "mem_get_info", "empty_cache")


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        (
            "tensorrt_rtx",
            (2, 11, 0),
            [
                "hide_plugin_package",
                "add_algorithm_selector",
                "add_dtype_setter",
                "keep_dtypes_in_where",
                "compute_in_float32",
            ],
        ),
        (
            "tensorrt_rtx",
            (2, 12, 1),
            ["add_dtype_setter", "keep_dtypes_in_where", "keep_scalars_wide", "compute_in_float32"],
        ),
        (
            "tensorrt_rtx",
            (2, 14, 0),
            [
                "hide_cpp_runtime",
                "keep_dtypes_in_where",
                "keep_scalars_wide",
                "keep_beside_unknown_operators",
                "compute_in_float32",
            ],
        ),
        (
            "tensorrt",
            (2, 14, 0),
            ["keep_dtypes_in_where", "keep_scalars_wide", "keep_beside_unknown_operators", "compute_in_float32"],
        ),
        ("tensorrt", (2, 10, 0), []),
        (
            "tensorrt",
            (2, 11, 0),
            ["add_algorithm_selector", "add_dtype_setter", "keep_dtypes_in_where", "compute_in_float32"],
        ),
    ],
)
def test_shims_are_keyed_on_versions(name, version, expected):
    assert [shim.apply.__name__ for shim in version_shims.shims_for(name, version)] == expected


def test_dtype_setter_accepts_only_the_dtype_that_is_there():
    class ITensor:
        dtype = property(lambda self: "HALF")
        name = "y"

    tensor = ITensor()
    with contextlib.ExitStack() as stack:
        version_shims.add_dtype_setter(stack, types.SimpleNamespace(ITensor=ITensor))
        tensor.dtype = "HALF"
        with pytest.raises(TypeError, match="tensor y is HALF"):
            tensor.dtype = "FLOAT"
    with pytest.raises(AttributeError):
        tensor.dtype = "HALF"


def test_algorithm_selector_is_there_only_during_the_import():
    trt = types.SimpleNamespace()
    with contextlib.ExitStack() as stack:
        version_shims.add_algorithm_selector(stack, trt)
        assert trt.IAlgorithmSelector
    assert vars(trt) == {}


def test_plugin_package_is_hidden_only_during_the_import(monkeypatch):
    monkeypatch.delitem(sys.modules, "tensorrt.plugin", raising=False)
    with contextlib.ExitStack() as stack:
        version_shims.hide_plugin_package(stack, None)
        assert sys.modules["tensorrt.plugin"] is None
    assert "tensorrt.plugin" not in sys.modules


@pytest.mark.parametrize(
    ("text", "version", "other"),
    [
        ('__tensorrt_rtx_version__ = "1.6.1"', "1.7.1.116", "1.6.1"),
        ('__tensorrt_rtx_version__ = "1.7.0.3"', "1.7.1.116", None),
        ('__tensorrt_rtx_version__ = "1.1.0"', "1.10.0", "1.1.0"),
        ('__version__ = "2.14.0"', "1.7.1.116", None),
    ],
)
def test_which_rtx_a_cpp_runtime_was_made_for(monkeypatch, tmp_path, text, version, other):
    (tmp_path / "torch_tensorrt").mkdir()
    (tmp_path / "torch_tensorrt" / "_version.py").write_text(text)
    distribution = types.SimpleNamespace(locate_file=tmp_path.joinpath)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: distribution)
    assert version_shims.other_rtx(version) == other


def test_a_cpp_runtime_for_another_rtx_is_not_found_during_the_import(monkeypatch, tmp_path):
    library, other = (tmp_path / "torch_tensorrt" / "lib" / name for name in ("libtorchtrt_runtime.so", "libother.so"))
    library.parent.mkdir(parents=True)
    library.touch(), other.touch()
    monkeypatch.delitem(sys.modules, "torch_tensorrt._features", raising=False)
    trt = types.SimpleNamespace(__version__="1.7.1")
    for made_for, found in ((None, True), ("1.6.1", False)):
        monkeypatch.setattr(version_shims, "other_rtx", lambda version, made_for=made_for: made_for)
        with contextlib.ExitStack() as stack:
            version_shims.hide_cpp_runtime(stack, trt)
            assert os.path.isfile(str(library)) is found  # noqa: PTH113 (as torch_tensorrt asks)
            assert os.path.isfile(str(other))  # noqa: PTH113
        assert os.path.isfile(str(library))  # noqa: PTH113


def test_torch_cuda_is_stubbed_only_without_a_gpu_and_put_back(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = {name: getattr(torch.cuda, name) for name in STUBBED}
    with pytest.raises(KeyError), gpu.without_gpu(), gpu.without_gpu():
        assert torch.cuda.get_device_capability() == (0, 0) and torch.cuda.current_device() == 0
        raise KeyError
    assert all(getattr(torch.cuda, name) is function for name, function in before.items())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with gpu.without_gpu():
        assert all(getattr(torch.cuda, name) is function for name, function in before.items())


def test_stubs_of_two_threads_do_not_mix(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = torch.cuda.current_device
    seen = []

    def enter():
        with gpu.without_gpu():
            seen.append(torch.cuda.current_device is not before)

    with gpu.without_gpu():
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join(0.05)
        assert thread.is_alive() and not seen
    thread.join()
    assert seen == [True] and torch.cuda.current_device is before


def test_quiet_import_drops_their_lines_and_keeps_others(capfd):
    with third_party_output.silence_import():
        os.write(2, b"WARNING: [Torch-TensorRT] - no GPU\nsomething else\n")
        logging.getLogger("torch_tensorrt.dynamo").error("noise")
        logging.getLogger("torch._opaque_base").error("noise")
        logging.captureWarnings(True)
    assert capfd.readouterr().err == "something else\n"
    assert logging.getLogger("torch_tensorrt").level == logging.NOTSET
    with pytest.warns(UserWarning, match="still shown"):
        warnings.warn("still shown", stacklevel=1)


def test_alias_library_resolves_to_what_it_stands_for():
    soname.provide("libbridge-alias-of-c.so", "libc.so.6")
    soname.provide("libbridge-alias-of-c.so", "libc.so.6")
    assert ctypes.CDLL("libbridge-alias-of-c.so").getpid() > 0
    with pytest.raises(OSError, match=r"cannot make liba\.so for the processor 'vax'"):
        soname.alias_image("liba.so", "libb.so", machine="vax")
