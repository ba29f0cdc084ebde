"""Inputs of bytes: engines declare INT8 for the uint8 that callers pass, since TensorRT gives UINT8 to no plugin."""

from dataclasses import replace
from importlib.util import find_spec

import oracle
import pytest
import torch
from onnx_files import Imported
from samples.preprocess import MEAN, STD, boxes_of, pixels

import bridge
from bridge.engine_file.contents import TensorSpec
from bridge.errors import UnsupportedOpError
from bridge.export.triton import tensors
from bridge.tensorrt.install import flavour
from bridge.tensorrt.run.engine import _check_tensors

needs_torch_tensorrt = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")


class Net(torch.nn.Module):
    """A camera's picture, a box in it, and a convolution."""

    def __init__(self, dtype="float32", **settings):
        super().__init__()
        self.settings = {"output_size": (16, 20), "mean": MEAN, "std": STD, "dtype": dtype, **settings}
        self.conv = torch.nn.Conv2d(3, 4, 3).to(getattr(torch, dtype))

    def forward(self, x, boxes):
        return self.conv(bridge.preprocess(x, None, boxes, **self.settings))


def arguments(count=2, height=40, width=50, seed=0):
    return pixels(count, height, width, 3, seed=seed), boxes_of(count, height, width, seed)


def growing():
    batch, height, width = (torch.export.Dim(name, min=1, max=99) for name in ("n", "h", "w"))
    return {"x": {0: batch, 1: height, 2: width}, "boxes": {0: batch}}


@needs_torch_tensorrt
def test_one_engine_takes_pictures_of_every_size():
    model = Net(fit="letterbox", antialias=True).eval()
    with oracle.interpreted(engines=True):  # TensorRT-RTX builds it, too
        compiled = oracle.ahead(model, arguments(), growing())
        assert compiled.plugin_counts() == {"preprocess": 1}
        assert [spec.dtype for spec in compiled.file.inputs] == ["uint8", "int64"]
        for seed, extents in enumerate(((2, 40, 50), (1, 1, 99), (5, 33, 2))):
            args = arguments(*extents, seed=seed)
            oracle.assert_same(compiled(*args), model(*args), rtol=1e-4, atol=1e-4)


@needs_torch_tensorrt
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_results_of_every_dtype_are_the_engines(dtype):
    with oracle.interpreted(engines=True):
        model = Net(dtype).eval()
        oracle.assert_same(oracle.ahead(model, arguments())(*arguments()), model(*arguments()), rtol=0.05, atol=0.05)


@needs_torch_tensorrt
def test_just_in_time_and_nv12():
    class Video(torch.nn.Module):
        def forward(self, luma, chroma):
            return bridge.preprocess(luma, chroma, source="nv12", output_size=(9, 10)) + 1

    args = pixels(2, 12, 18), pixels(2, 6, 9, 2, seed=1)
    with oracle.interpreted(engines=True):
        oracle.assert_same(oracle.just_in_time(Video())(*args), Video()(*args), rtol=1e-5, atol=1e-5)


@needs_torch_tensorrt
def test_bytes_that_are_no_input_of_their_own_are_refused():
    class Computed(Net):
        def forward(self, x, boxes):
            return super().forward((x.float() * 0.5).to(torch.uint8), boxes)

    class Shared(Net):
        def forward(self, x, boxes):
            return super().forward(x, boxes), x.float().mean()

    for model, text in (
        (Computed(), "images is uint8, which TensorRT gives to no plugin; .* this one is computed by the model"),
        (Shared(), "images is uint8, which TensorRT gives to no plugin; .* uses this one otherwise too"),
    ):
        with pytest.raises(UnsupportedOpError, match=text):
            bridge.compile(model.eval(), arguments(), target="sm86")


@needs_torch_tensorrt
def test_a_file_of_onnx_declares_the_bytes_and_is_built(tmp_path):
    pytest.importorskip("onnxscript")
    import onnx

    model = Net().eval()
    file = bridge.export_onnx(model, arguments(), dynamic_shapes=growing(), path=tmp_path / "m.onnx", target="sm86")
    assert file.plugins == {"preprocess": 1}
    declared = {each.name: each.type.tensor_type.elem_type for each in onnx.load(file.path).graph.input}
    assert declared == {"x": onnx.TensorProto.INT8, "boxes": onnx.TensorProto.INT64}
    assert Imported(file).engine()


@needs_torch_tensorrt
def test_a_server_that_runs_the_engine_itself_is_told_int8():
    file = bridge.compile(Net().eval(), arguments(), target="sm86", cache=False).file
    assert [each.dtype for each in tensors.inputs(file)] == ["UINT8", "INT64"]
    assert [each.dtype for each in tensors.engine_inputs(file)] == ["INT8", "INT64"]
    assert tensors.engine_inputs(replace(file, layers=[])) == tensors.inputs(file)  # another layer casts them


@needs_torch_tensorrt
def test_torch_tensorrts_own_compile_leaves_the_op_to_pytorch():
    x, boxes = arguments()
    torch_tensorrt = flavour.detect().torch_tensorrt()
    if torch.cuda.is_available():
        pytest.skip("without a GPU it builds no engine to run")
    with bridge.cross_compile("sm86"):
        compiled = torch_tensorrt.compile(Net().eval(), ir="dynamo", arg_inputs=[x, boxes], min_block_size=1)
    assert not bridge.report(compiled).plugin_counts()


class _Native:
    """The tensors of an engine, as TensorRT names them."""

    def __init__(self, trt, dtypes):
        self.dtypes = {name: getattr(trt.DataType, dtype) for name, dtype in dtypes.items()}
        self.num_io_tensors = len(dtypes)
        self.location = trt.TensorLocation.DEVICE

    def get_tensor_name(self, index):
        return list(self.dtypes)[index]

    def get_tensor_dtype(self, name):
        return self.dtypes[name]

    def get_tensor_location(self, name):
        return self.location


def test_an_engine_file_may_say_uint8_for_int8_and_nothing_else(make_engine_file):
    trt = flavour.detect().trt()
    inputs = (TensorSpec("x", "uint8", (1,), (1,), (1,)), TensorSpec("n", "int64", (), (), ()))
    file = make_engine_file(inputs=inputs)
    _check_tensors(file, flavour.detect(), _Native(trt, {"x": "INT8", "n": "INT64", "y": "BF16"}))
    with pytest.raises(bridge.errors.EngineError, match="its file describes"):
        _check_tensors(file, flavour.detect(), _Native(trt, {"x": "INT8", "n": "INT64", "y": "INT8"}))


@pytest.mark.gpu(engines=True)
def test_engines_are_eager_under_every_extent(device):
    model = Net("float16", fit="letterbox").eval()
    compiled = bridge.compile(model, arguments(), dynamic_shapes=growing())
    for seed, extents in enumerate(((2, 40, 50), (1, 1, 99), (5, 33, 2))):
        args = arguments(*extents, seed=seed)
        actual = compiled(*(each.to(device) for each in args))
        torch.testing.assert_close(actual.cpu(), model(*args), rtol=1e-2, atol=1e-2)
