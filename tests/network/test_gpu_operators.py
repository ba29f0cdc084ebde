"""Operators that PyTorch makes on a GPU alone, and results whose shape a decomposition changes."""

import types
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from oracle import ahead, as_on_a_gpu, assert_same, interpreted
from programs import Function

from bridge.errors import BuildError
from bridge.tensorrt.decompositions import recurrent
from bridge.tensorrt.network.output_check import check_outputs

pytestmark = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")

HIDDEN, WIDTH = 6, 4


def evaluated_both(function, args, **tolerance):
    """Compares with eager what is captured on the CPU, and what is captured as on a GPU."""
    model = Function(function).eval()
    with torch.no_grad(), interpreted():
        expected = model(*args)
        for example in (args, as_on_a_gpu(args)):
            torch._dynamo.reset()
            assert_same(ahead(model, example)(*args), expected, **tolerance)


@pytest.mark.parametrize("eps", [None, 0.1])
@pytest.mark.parametrize("weighted", [True, False])
def test_rms_norm_of_values_whose_squares_float16_does_not_hold(weighted, eps):
    x, weight = (torch.randn(2, 3, 8) * 5000).half(), torch.randn(8).half()
    evaluated_both(lambda x, w: F.rms_norm(x, (8,), w if weighted else None, eps), (x, weight), rtol=2e-3, atol=2e-3)


def test_rms_norm_without_eps_takes_the_dtypes():
    x = torch.randn(2, 3, 8) * 1e-3  # 1e-5 in the place of float32's 1e-7 would make it 70 % of that
    evaluated_both(lambda x: F.rms_norm(x, (8,)), (x,))
    evaluated_both(lambda x: F.rms_norm(x, (3, 8)), (x,))


def test_both_results_of_the_fused_operator():
    def scale_first(x, weight):
        result, scale = torch.ops.aten._fused_rms_norm(x, [8], weight, 1e-3)
        return scale, result

    evaluated_both(scale_first, ((torch.randn(2, 8) * 500).half(), torch.randn(8).half()), rtol=2e-3, atol=2e-3)


def weights(gates, layers=1, directions=1):
    """Of a recurrent layer: [gates * H, input], [gates * H, H] and two biases, for each layer and direction."""
    inputs = [WIDTH] + [directions * HIDDEN] * (layers - 1)
    rows = gates * HIDDEN
    return [
        torch.randn(*shape) / 2
        for width in inputs
        for _ in range(directions)
        for shape in ((rows, width), (rows, HIDDEN), (rows,), (rows,))
    ]


@pytest.mark.parametrize(("layers", "directions"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("batch", [1, 3])
def test_last_states_of_an_lstm(layers, directions, batch):
    def lstm(x, h, c, *params):
        return torch.lstm(x, (h, c), list(params), True, layers, 0.0, False, directions == 2, True)

    state = (layers * directions, batch, HIDDEN)
    args = (torch.randn(batch, 3, WIDTH), torch.randn(state), torch.randn(state), *weights(4, layers, directions))
    evaluated_both(lstm, args, rtol=1e-4, atol=1e-5)


def test_an_lstm_cell():
    args = (torch.randn(3, WIDTH), torch.randn(3, HIDDEN), torch.randn(3, HIDDEN), *weights(4))
    evaluated_both(lambda x, h, c, *params: torch.lstm_cell(x, (h, c), *params), args, rtol=1e-4, atol=1e-5)


def test_a_gru_cell():
    x, h, (w_x, w_h, b_x, b_h) = torch.randn(3, WIDTH), torch.randn(3, HIDDEN), weights(3)
    result, _ = recurrent.gru_cell(x @ w_x.T, h @ w_h.T, h, b_x, b_h)
    torch.testing.assert_close(result, torch.gru_cell(x, h, w_x, w_h, b_x, b_h))
    evaluated = Function(lambda x, h, *params: torch.gru_cell(x, h, *params)).eval()
    with interpreted():
        assert_same(ahead(evaluated, (x, h, w_x, w_h, b_x, b_h))(x, h, w_x, w_h, b_x, b_h), result)


def test_the_variance_of_16_bit_values():
    x = (torch.randn(2, 64) * 50).half()
    evaluated_both(lambda x: (x.var(-1), x.std(-1)), (x,), rtol=2e-3, atol=2e-3)


def test_a_result_whose_shape_lowering_changes_is_refused():
    program = torch.export.export(Function(lambda x: (x * 2, x.sum(0))).eval(), (torch.ones(2, 3),))
    module = program.module()
    check_outputs(program, module)
    changed = next(node for node in module.graph.nodes if "sum" in node.name)
    changed.meta["val"] = types.SimpleNamespace()  # unknown: nothing is said of it
    check_outputs(program, module)
    for shape in ((1, 3), (4,)):
        changed.meta["val"] = torch.ones(shape)
        with pytest.raises(BuildError, match=r"(?s)result 1 has shape \(3,\) in the program and .* in forward"):
            check_outputs(program, module)
