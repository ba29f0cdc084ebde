"""check_engine: an engine of one call, which extents are dynamic in it, and what is wrong with one."""

from types import SimpleNamespace

import pytest
import torch
from own_ops import forgotten
from samples import rope

import bridge
from bridge.core.device_code import DeviceCode
from bridge.core.op import OPS
from bridge.engine_file.contents import OutputSpec
from bridge.errors import UnsupportedOpError
from bridge.testing import check_engine, engine
from bridge.testing.extents import extents_of

X = torch.randn(7, 3)


def compiled_with(monkeypatch, plugins, *outputs):
    """bridge.compile gives an engine that says so of itself."""
    stand = SimpleNamespace(
        plugin_counts=lambda: plugins,
        outputs=[OutputSpec("y", *each) for each in outputs],
        file=SimpleNamespace(target=""),
    )
    monkeypatch.setattr(bridge, "compile", lambda *args, **settings: stand)


def test_static_and_dynamic():
    check_engine(OPS["relu"], X, target="sm86", negative_slope=0.5)
    shapes = [{0: torch.export.Dim("length", max=9)}]
    check_engine(OPS["relu"], X, 0.5, dynamic_shapes=shapes, target="sm86")
    check_engine(OPS["relu"], X.to(torch.bfloat16), target="sm86")


def test_an_absent_tensor():
    q, k, cos, sin = rope.rope_arguments(2, 5)
    batch = torch.export.Dim("batch", max=4)
    check_engine(OPS["rope"], q, k, cos, sin, dynamic_shapes=[{0: batch}, {0: batch}, None, None], target="sm86")


@pytest.mark.parametrize(
    ("plugins", "outputs", "text"),
    [
        ({}, [("float32", (7, 3))], r"the engine has plugin layers \{\}, expected one of relu"),
        ({"relu": 2}, [("float32", (7, 3))], "plugin layers {'relu': 2}"),
        ({"relu": 1}, [], "the engine has 0 outputs, expected 1"),
        ({"relu": 1}, [("float16", (7, 3))], "output 0 of the engine is torch.float16, of the reference torch.float32"),
        ({"relu": 1}, [("float32", (7, 4))], r"output 0 of the engine is \[7, 4\], of the reference \[7, 3\]"),
        ({"relu": 1}, [("float32", (7,))], r"output 0 of the engine is \[7\], of the reference \[7, 3\]"),
        ({"relu": 1}, [("float32", (-1, 3))], r"output 0 of the engine is \[-1, 3\]"),
    ],
)
def test_what_is_wrong_is_told(monkeypatch, plugins, outputs, text):
    compiled_with(monkeypatch, plugins, *outputs)
    with pytest.raises(AssertionError, match=text):
        check_engine(OPS["relu"], X, target="sm86")


def test_an_op_without_a_kernel_has_a_generated_one():
    with forgotten():
        bridge.op("engine_check::square")(square)
        check_engine(OPS["engine_check::square"], X, target="sm86")


def square(x: torch.Tensor) -> torch.Tensor:
    return x * x


def test_an_op_without_a_kernel_that_cannot_have_a_generated_one():
    with forgotten():
        bridge.op("engine_check::spectrum")(spectrum)
        with pytest.raises(UnsupportedOpError, match=r"engine_check::spectrum cannot become a plugin: .*fft"):
            check_engine(OPS["engine_check::spectrum"], X, target="sm86")


def spectrum(x: torch.Tensor) -> torch.Tensor:
    return torch.fft.rfft(x).abs()


def test_what_is_dynamic_where_nobody_says():
    args = rope.rope_arguments(2, 5, (4, 2), 16, table="[S, R]")
    extents = extents_of(OPS["rope"], args, {"layout": "bhsd"})
    shapes, further = engine.open_shapes(extents)
    names = [{axis: dim.__name__ for axis, dim in (shape or {}).items()} for shape in shapes]
    assert names[0][0] == names[1][0] and names[0][2] == names[2][0], "equal extents have one name"
    assert 3 not in names[0], "a head has an even extent"
    assert [given[0].shape[0] for given in further] == [5, 2], "the greatest batch, and the least"


def test_the_target_is_one_that_the_library_has_code_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert engine.default_target(OPS["relu"]) == "sm86"
    monkeypatch.setattr(engine, "device_codes", lambda path: (DeviceCode(90, False), DeviceCode(120, False)))
    assert engine.default_target(OPS["relu"]) == "sm90"
    assert not engine.runs_here("sm90")


@pytest.mark.gpu(engines=True)
def test_values_on_a_gpu(monkeypatch):
    check_engine(OPS["relu"], X, dynamic_shapes=[{0: torch.export.Dim("n", max=9)}], further=[[torch.randn(9, 3)]])
    run = OPS["relu"].run
    monkeypatch.setattr(OPS["relu"], "run", lambda *args, **kwargs: run(*args, **kwargs) + 1)
    with pytest.raises(AssertionError, match="of the engine"):
        check_engine(OPS["relu"], X)
