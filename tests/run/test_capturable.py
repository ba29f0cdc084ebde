"""Engines that CUDA graphs can hold: no loops in them, and where there are, an error that names them."""

import types
from importlib.util import find_spec

import pytest
import torch
from oracle import ahead, assert_same, interpreted
from torch import nn
from torch.export import Dim

import bridge
from bridge.errors import EngineError
from bridge.tensorrt.run.capturable import likely_causes
from bridge.tensorrt.run.context import Context

needs_torch_tensorrt = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")


class Sums(nn.Module):
    """Running sums along the first axis and the last, of every dtype."""

    def forward(self, x, whole):
        wide = whole.cumsum(-1, dtype=torch.float32)
        return x.cumsum(0), x.half().cumsum(-1), whole.cumsum(0), (x > 0).cumsum(1), wide, whole.int().cumsum(0)


@needs_torch_tensorrt
def test_running_sums_are_one_layer_and_exact():
    x, whole = torch.randn(3, 7), torch.randint(-(2**40), 2**40, (3, 7))
    dim = Dim("n", min=2, max=9)
    shapes = {"x": {0: dim}, "whole": {0: dim}}
    engine = bridge.compile(Sums().eval(), (x, whole), dynamic_shapes=shapes, target="sm86", cache=False)
    kinds = [layer["type"] for layer in engine.file.layers]
    assert kinds.count("CUMULATIVE") == 6 and not likely_causes(engine.file.layers)
    with interpreted():
        found = ahead(Sums().eval(), (x, whole), shapes)
        for given in ((x, whole), (x[:2] * 3, whole[:2])):
            assert_same(found(*given), Sums()(*given))


@needs_torch_tensorrt
def test_transformers_causal_mask_has_no_loop():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 32}
    rope = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope["original_max_position_embeddings"] = 16
    config = transformers.LlamaConfig(
        vocab_size=64, num_hidden_layers=1, max_position_embeddings=64, rope_parameters=rope, use_cache=False, **sizes
    )
    model, ids = transformers.LlamaModel(config).eval(), torch.randint(0, 64, (2, 5))
    shapes = {"input_ids": {0: Dim("batch", min=2, max=8), 1: Dim("length", min=2, max=32)}}
    with interpreted():
        compiled = ahead(_Hidden(model).eval(), (ids,), shapes, passes=False)  # a pass would take the mask away
        longer = torch.randint(0, 64, (3, 9))
        assert_same(compiled(longer), _Hidden(model)(longer), rtol=1e-3, atol=1e-4)
    kinds = [layer["type"] for layer in compiled.file.layers]
    assert "CUMULATIVE" in kinds and not likely_causes(compiled.file.layers)


class _Hidden(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids):
        return self.model(input_ids).last_hidden_state


def test_an_engine_that_cannot_be_captured_names_its_loop():
    kinds = ("CONSTANT", "TRIP_LIMIT", "ITERATOR", "RECURRENCE", "LOOP_OUTPUT", "SHAPE")
    layers = [{"name": f"{kind} of sums", "type": kind} for kind in kinds]
    context = types.SimpleNamespace(
        check_shapes_known=lambda: None,
        native=types.SimpleNamespace(is_stream_capturable=lambda stream: False),
        _engine=types.SimpleNamespace(file=types.SimpleNamespace(layers=layers)),
        _shapes=(torch.Size([2, 3]),),
        _tensorrt_errors=lambda: "",
    )
    with pytest.raises(EngineError, match=r"probably because it has a loop: TRIP_LIMIT of sums, .*1 layers more"):
        Context.check_capturable(context, 0)
    layers.clear()
    with pytest.raises(EngineError, match=r"\(2, 3\); run it with cuda_graph=False$"):
        Context.check_capturable(context, 0)
