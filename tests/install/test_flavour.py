"""Which TensorRT is found, and what to install where there is none."""

import fresh_process
import pytest
from test_version_shims import STUBBED

from bridge.base import log
from bridge.cli import doctor
from bridge.errors import FlavourError
from bridge.tensorrt.install import flavour


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
    done = fresh_process.run(code)
    assert done.stdout.split("\n")[0] == "[] True True", done.stderr


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
    log.warn_once.cache_clear()
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
