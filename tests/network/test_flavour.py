"""Which TensorRT is found, what importing it changes, and what is put back."""

import contextlib
import ctypes
import importlib.metadata
import logging
import os
import subprocess
import sys
import threading
import types
import warnings
from importlib.util import find_spec

import pytest
import torch

from bridge.base import third_party_output
from bridge.cli import doctor
from bridge.errors import FlavourError, TargetError
from bridge.tensorrt.install import flavour, gpu, soname, version_shims
from bridge.tensorrt.install.target import cross_targets, resolve_target

needs_rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="needs tensorrt_rtx")
STUBBED = ("get_device_capability", "current_device", "mem_get_info", "empty_cache")


def install(monkeypatch, **versions):
    """Pretends that exactly these distributions are installed."""
    names = {name.replace("_", "-"): version for name, version in versions.items()}
    monkeypatch.setattr(flavour, "_version", names.get)
    monkeypatch.delenv(flavour.ANY_VARIABLE, raising=False)


def test_import_bridge_imports_no_tensorrt():
    code = (
        "import sys, torch; before = {n: getattr(torch.cuda, n) for n in " + repr(STUBBED) + "}; import bridge;"
        "bridge.compile, bridge.load, bridge.Config;"
        "print([n for n in sys.modules if n.startswith(('tensorrt', 'torch_tensorrt', 'onnx'))],"
        " all(getattr(torch.cuda, n) is f for n, f in before.items()), callable(bridge.compile))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[] True True"


@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        ({"tensorrt_rtx": "1.7.1.116", "torch_tensorrt_rtx": "2.11.0"}, ("tensorrt_rtx", "1.7.1.116", "2.11.0")),
        ({"tensorrt_cu13": "11.1.0", "torch_tensorrt": "2.12.0+cu130"}, ("tensorrt", "11.1.0", "2.12.0+cu130")),
        ({"tensorrt_rtx": "1.7.1"}, ("tensorrt_rtx", "1.7.1", None)),
        (
            {"tensorrt": "10.15.1", "tensorrt_rtx": "1.7.1", "torch_tensorrt_rtx": "2.11"},
            ("tensorrt_rtx", "1.7.1", "2.11"),
        ),
        ({"tensorrt": "10.15.1", "tensorrt_rtx": "1.7.1", "torch_tensorrt": "2.11"}, ("tensorrt", "10.15.1", "2.11")),
    ],
)
def test_torch_tensorrt_decides_among_flavours(monkeypatch, installed, expected):
    install(monkeypatch, **installed)
    assert flavour.detect() == flavour.Flavour(*expected)
    assert flavour.detect(expected[0]).name == expected[0]


@pytest.mark.parametrize(
    ("installed", "asked", "text"),
    [
        (
            {},
            None,
            "no TensorRT is installed; install tensorrt: pip install torch-tensorrt tensorrt, or tensorrt_rtx: pip",
        ),
        ({"tensorrt_rtx": "1.6.0"}, None, "tensorrt_rtx 1.6.0 is too old: bridge needs 1.7 or later; pip install"),
        ({"tensorrt": "10.9.0"}, None, "tensorrt 10.9.0 is too old: bridge needs 10.15 or later"),
        ({"tensorrt_rtx": "1.7.1", "torch_tensorrt": "2.11"}, None, "torch-tensorrt is installed without tensorrt"),
        ({"tensorrt_rtx": "1.7.1"}, "tensorrt", "flavour 'tensorrt' is requested, but tensorrt_rtx 1.7.1 is in use"),
    ],
)
def test_no_usable_flavour_is_an_error_with_a_command(monkeypatch, installed, asked, text):
    install(monkeypatch, **installed)
    with pytest.raises(FlavourError) as caught:
        flavour.detect(asked)
    assert text in str(caught.value) and "pip install" in str(caught.value)


@pytest.mark.parametrize(
    ("torch_version", "expected"),
    [
        (None, 'pip install "torch-tensorrt-rtx==2.11.*" "tensorrt-rtx==1.7.1.116"'),
        ("2.11.0+cu130", 'pip install "torch-tensorrt-rtx==2.11.*" "tensorrt-rtx==1.7.1.116"'),
        ("2.12.0", 'then pip install --no-deps "torch-tensorrt-rtx==2.12.*"'),
        ("2.14.1", 'then pip install --no-deps "torch-tensorrt-rtx==2.14.*"'),
        ("2.15.0", 'then pip install --no-deps "torch-tensorrt-rtx==2.14.*"'),
    ],
)
def test_what_to_install_depends_on_torch(monkeypatch, torch_version, expected):
    install(monkeypatch, torch=torch_version)
    with pytest.raises(FlavourError) as caught:
        flavour.detect()
    assert str(caught.value).endswith(expected)
    assert "tensorrt-rtx==1.7.1.116" in str(caught.value)


def test_a_switch_accepts_a_tensorrt_that_is_too_old_with_a_warning(monkeypatch, caplog):
    install(monkeypatch, tensorrt_rtx="1.6.1.120")
    flavour._warn_once.cache_clear()
    monkeypatch.setenv(flavour.ANY_VARIABLE, "0")
    with pytest.raises(FlavourError, match=r"too old.*; to try it all the same, set BRIDGE_ANY_TENSORRT=1"):
        flavour.detect()
    monkeypatch.setenv(flavour.ANY_VARIABLE, "1")
    assert flavour.detect() == flavour.detect() == flavour.Flavour("tensorrt_rtx", "1.6.1.120", None)
    warning = "tensorrt_rtx 1.6.1.120 is too old: bridge needs 1.7 or later; used all the same, because"
    assert [record.getMessage().startswith(warning) for record in caplog.records] == [True]
    assert doctor.examine().versions["flavour in use"].startswith("tensorrt_rtx; warning: tensorrt_rtx 1.6.1")


def test_a_switch_that_is_neither_0_nor_1_is_an_error(monkeypatch):
    install(monkeypatch, tensorrt_rtx="1.6.1.120")
    monkeypatch.setenv(flavour.ANY_VARIABLE, "yes")
    with pytest.raises(FlavourError, match="BRIDGE_ANY_TENSORRT is 'yes', expected 1"):
        flavour.detect()


def test_conversion_without_torch_tensorrt_is_an_error():
    lone = flavour.Flavour("tensorrt_rtx", "1.7.1", None)
    with pytest.raises(FlavourError, match=r"torch-tensorrt-rtx is not installed; pip install"):
        lone.torch_tensorrt()


def test_release_reads_the_numbers_of_a_version():
    assert flavour.release("2.11.0+cu130") == (2, 11, 0)
    assert flavour.release("1.7.1.116") == (1, 7, 1, 116)
    assert flavour.release("unknown") == ()


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
        ("tensorrt_rtx", (2, 12, 1), ["add_dtype_setter", "keep_dtypes_in_where", "compute_in_float32"]),
        ("tensorrt_rtx", (2, 14, 0), ["hide_cpp_runtime", "compute_in_float32"]),
        ("tensorrt", (2, 14, 0), ["compute_in_float32"]),
        ("tensorrt", (2, 10, 0), []),
        ("tensorrt", (2, 11, 0), ["keep_dtypes_in_where", "compute_in_float32"]),
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


@needs_rtx
@pytest.mark.parametrize("text", ["sm86", "SM_86", "8.6", "86", " sm86 "])
def test_target_spellings(text):
    assert resolve_target(flavour.detect(), text) == "sm86"


@needs_rtx
@pytest.mark.parametrize("text", ["sm99", "foo", "", "sm", "8,6"])
def test_target_that_does_not_exist_names_those_that_do(text):
    with pytest.raises(TargetError) as caught:
        resolve_target(flavour.detect(), text)
    assert "sm75, sm80, sm86, sm89, sm120, sm121" in str(caught.value)


@needs_rtx
def test_no_target_means_the_current_gpu(monkeypatch):
    monkeypatch.setattr(gpu, "current_target", lambda: "sm90")
    assert resolve_target(flavour.detect(), None) == resolve_target(flavour.detect(), "9.0") == "sm90"
    monkeypatch.setattr(gpu, "current_target", lambda: None)
    with pytest.raises(TargetError, match=r"there is no GPU here to build for; pass target= one of sm75"):
        resolve_target(flavour.detect(), None)


def test_standard_tensorrt_builds_for_the_current_gpu_alone(monkeypatch):
    standard = flavour.Flavour("tensorrt", "10.15.1", "2.11.0")
    monkeypatch.setattr(gpu, "current_target", lambda: "sm90")
    assert cross_targets(standard) == []
    assert resolve_target(standard, None) == "sm90"
    with pytest.raises(TargetError, match=r"tensorrt builds for the GPU of this machine alone"):
        resolve_target(standard, "sm86")
