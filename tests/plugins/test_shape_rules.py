"""Shape rules that two languages disagree about are found at conversion, whichever of them is wrong."""

import dataclasses
import warnings
from importlib.util import find_spec

import pytest
import torch
from compilers import build_stub, needs_c_compiler
from oracle import ahead, interpreted, just_in_time
from own_ops import forgotten
from torch import nn
from torch.export import Dim

import bridge
from bridge.cli import library_table
from bridge.core import libraries
from bridge.core.op import OPS
from bridge.core.plugin_file import LOADER_ABI
from bridge.errors import BuildError, LibraryError, UnsupportedOpError
from bridge.tensorrt.plugins import shape_rules

pytestmark = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")


class Pooled(nn.Module):
    def forward(self, x, rois):
        return bridge.roi_align(x, rois, (3, 2))


class Rectified(nn.Module):
    def forward(self, x):
        return bridge.relu(x + x)


def pooled(**settings):
    args = torch.randn(2, 4, 9, 8), torch.tensor([[0.0, 1, 1, 5, 5]] * 3)
    return ahead(Pooled().eval(), args, **settings)


def rectified(dynamic=False):
    height, width = Dim("height", min=2, max=64), Dim("width", min=2, max=32)
    shapes = ({1: height, 2: width},) if dynamic else None
    return ahead(Rectified().eval(), (torch.randn(1, 7, 5),), shapes)


def swap(monkeypatch, place, when=lambda shapes: True):
    """The plugin library's rule with two extents of its first result exchanged."""
    infer = libraries.infer_shapes

    def wrong(op, shapes, attributes):
        (first, *rest) = infer(op, shapes, attributes)
        extents = list(first)
        if when(shapes):
            extents[place], extents[place + 1] = extents[place + 1], extents[place]
        return [tuple(extents), *rest]

    monkeypatch.setattr(libraries, "infer_shapes", wrong)


def test_rules_that_agree_convert():
    with interpreted():
        assert pooled()(torch.randn(2, 4, 9, 8), torch.tensor([[0.0, 1, 1, 5, 5]] * 3)).shape == (3, 4, 3, 2)
        assert rectified(dynamic=True)(torch.randn(1, 9, 4)).shape == (1, 9, 4)


def test_a_rule_that_swaps_height_and_width_is_an_error(monkeypatch):
    swap(monkeypatch, 2)
    with interpreted(), pytest.raises(BuildError) as error:
        pooled()
    text = str(error.value)
    assert "roi_align: output 0 is [3, 4, 2, 3] by the plugin library, and [3, 4, 3, 2] by its reference" in text
    assert "for x [2, 4, 9, 8], rois [3, 5]" in text and f"{__file__}:" in text
    assert "Mend `shapes` or `outputs` in roi_align.cu, or " in text and "bridge/ops/detection/roi_align.py" in text


def test_a_rule_that_is_wrong_at_the_profiles_ends_alone_is_an_error(monkeypatch):
    """The example is square at neither end, but right; the greatest extents are 64 and 32."""
    swap(monkeypatch, 1, when=lambda shapes: shapes[0][1] == 64)
    with interpreted(), pytest.raises(BuildError, match=r"relu: output 0 is \[1, 32, 64\] by the plugin library"):
        rectified(dynamic=True)


def test_a_rule_that_refuses_what_the_reference_takes_is_an_error(monkeypatch):
    def refuse(op, shapes, attributes):
        raise bridge.errors.OpInputError("relu: no")

    monkeypatch.setattr(libraries, "infer_shapes", refuse)
    with interpreted(), pytest.raises(BuildError, match=r"the plugin library refuses relu: relu: no; .*\n.*relu\.cu"):
        rectified()


def test_a_rule_is_believed_where_no_model_is_known_to_have_the_extents(monkeypatch):
    """Extents that depend on values have no example; the rule may refuse any guess."""
    infer, refused = libraries.infer_shapes, []

    def refuse(op, shapes, attributes):
        if shapes[-1][0] != 3:
            refused.append(shapes)
            raise bridge.errors.OpInputError("roi_align: no")
        return infer(op, shapes, attributes)

    class Model(nn.Module):
        def forward(self, x, boxes, scores):
            kept = bridge.nms(boxes, scores, 0.5)
            return bridge.roi_align(x, nn.functional.pad(boxes[kept], (1, 0)), 2)

    monkeypatch.setattr(
        libraries, "infer_shapes", lambda op, *rest: (refuse if op.name == "roi_align" else infer)(op, *rest)
    )
    args = torch.randn(1, 4, 9, 8), torch.rand(6, 4), torch.rand(6)
    with interpreted():
        compiled = ahead(Model().eval(), args)
    assert refused
    assert "roi_align" in compiled.file.plugins


@pytest.mark.parametrize("found", [(1, 5, 7), (1, 7), (-1, 5, 7)])
def test_shapes_that_the_network_infers_are_compared(found):
    call = dataclasses.replace(call_of_relu(), results=((1, 7, 5),))
    with pytest.raises(BuildError, match=r"relu: output 0 is .* in the network, and \[1, 7, 5\] in the graph"):
        shape_rules.check_network(call, [found])
    shape_rules.check_network(call, [(-1, 7, -1)])
    shape_rules.check_network(dataclasses.replace(call, results=((-1, 7, 5),)), [(4, 7, 5)])


def call_of_relu():
    from bridge.engine_file import dtypes
    from bridge.tensorrt.plugins.fields import Call

    single = dtypes.from_torch(torch.float32)
    return Call("relu", OPS["relu"], ((single, (1, 7, 5)),), (single,), {}, line="model.py:1")


def stub(monkeypatch, folder, *dtypes, **settings):
    """bridge's library of plugins, as a stub that has relu alone."""
    monkeypatch.setenv("BRIDGE_LIBRARY_DIR", str(folder))
    return build_stub(folder, "bridge", OPS["relu"].schema_text(), *dtypes, **settings)


@needs_c_compiler
def test_a_plugin_library_with_a_wrong_rule_is_an_error(monkeypatch, tmp_path):
    """A library in which relu turns the extents round."""
    library = stub(monkeypatch, tmp_path)
    fake = torch.empty(1, 7, 5, device="meta")
    with pytest.raises(BuildError, match=r"relu: output 0 is \[5, 7, 1\] by the plugin library, and \[1, 7, 5\] by"):
        shape_rules.check(call_of_relu(), [fake], [fake])
    with pytest.raises(
        UnsupportedOpError, match=f"nms: an engine needs a kernel of it, and {library} has none: it holds relu;"
    ):
        shape_rules.check(dataclasses.replace(call_of_relu(), op=OPS["nms"]), [], [])


@needs_c_compiler
@pytest.mark.parametrize(
    ("dtypes", "refuses", "kind", "text"),
    [
        ("float16", False, BuildError, "output 0 is float16 by the plugin library, and float32 by"),
        ("relu: x is float32, expected float16", True, UnsupportedOpError, "x is float32, expected"),
    ],
)
def test_a_plugin_library_with_other_dtypes_is_an_error(monkeypatch, tmp_path, dtypes, refuses, kind, text):
    stub(monkeypatch, tmp_path, dtypes, refuses=refuses)
    fake = torch.empty(1, 7, 5, device="meta")
    with pytest.raises(kind, match=rf"relu: .*{text}.*model\.py:1"):
        shape_rules.check(call_of_relu(), [fake], [fake])


@needs_c_compiler
@pytest.mark.parametrize(("abi", "age"), [(LOADER_ABI - 1, "an older"), (LOADER_ABI + 1, "a newer")])
def test_a_plugin_library_of_another_bridge_is_an_error(monkeypatch, tmp_path, abi, age):
    stub(monkeypatch, tmp_path, abi=abi)
    with pytest.raises(LibraryError, match=rf"built with {age} bridge: its ABI is {abi}, .*Build it again"):
        OPS["relu"].library.plugins()


# Ops without a plugin


@pytest.fixture(scope="module")
def tripled():
    """An op of someone's own, with no kernel."""

    with forgotten():

        @bridge.op("tripling::tripled")
        def tripled(x: torch.Tensor) -> torch.Tensor:
            return x * 3

        yield tripled


class Tripled(nn.Module):
    def forward(self, x):
        return torch.ops.tripling.tripled(x + x)


def test_an_op_without_a_kernel_has_a_generated_one(tripled):
    with interpreted():
        model = ahead(Tripled().eval(), (torch.ones(3),))
        assert torch.equal(model(torch.ones(3)), 6 * torch.ones(3))
    ((plugin, count),) = model.plugin_counts().items()
    assert plugin.startswith("tripling::tripled_") and count == 1


def test_a_library_that_is_not_where_it_is_said_to_be_stops_only_the_models_that_use_it(tripled, monkeypatch, tmp_path):
    monkeypatch.setenv("TRIPLING_LIBRARY_DIR", str(tmp_path))
    with interpreted():
        assert torch.equal(rectified()(torch.ones(1, 7, 5)), 2 * torch.ones(1, 7, 5))
        with pytest.raises(UnsupportedOpError) as error:
            ahead(Tripled().eval(), (torch.ones(3),))
    text = str(error.value)
    assert (
        "tripling.tripled.default (1 use): an engine needs a kernel of it, and libtripling_plugins.so is not in" in text
    )
    assert "forward: return torch.ops" in text
    assert f"it is defined in {__file__}" in text and "`bridge new op tripling::tripled` makes a package" in text
    assert "call the function without @bridge.op" in text


def test_an_op_without_a_kernel_is_not_missed_in_other_libraries(tripled):
    states = library_table.states()
    assert "their schemas match the ops" in states["libbridge_plugins.so"]["state"]
    assert "libtripling_plugins.so is not in" in states["libtripling_plugins.so"]["state"]


def test_an_op_without_a_kernel_may_stay_in_pytorch(tripled, monkeypatch, tmp_path):
    monkeypatch.setenv("TRIPLING_LIBRARY_DIR", str(tmp_path))
    with interpreted(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = just_in_time(Tripled().eval(), fallback=True)
        assert torch.equal(model(torch.ones(3)), 6 * torch.ones(3))
