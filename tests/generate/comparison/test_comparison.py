"""A plugin beside PyTorch. Here the plugin is a Python function, and PyTorch runs on the CPU."""

import pytest
import torch
import torch.nn.functional as F
from traced import call_of_body

from bridge.doors.comparison.comparison import SMALL, Compared, Comparison
from bridge.errors import BuildError
from bridge.generate.tracing.regions import cover

HALF, FLOAT, BFLOAT, INT, LONG = torch.float16, torch.float32, torch.bfloat16, torch.int32, torch.int64
ROWS, WIDTH = (1, 8, 4), (1, 999, 256)


class Plugin:
    """Runs a function; notes the tensors of each call."""

    def __init__(self, function):
        self.function = function
        self.calls = []

    def __call__(self, inputs, outputs):
        self.calls.append(inputs)
        results = self.function(*inputs)
        for output, result in zip(outputs, results if isinstance(results, tuple) else (results,), strict=True):
            output.copy_(result)


def compare(body, *inputs, plugin=None, most=1 << 20):
    """What a comparison found, and the tensors that the plugin was run on."""
    call = call_of_body(body, *inputs)
    run = Plugin(plugin or body)
    return Comparison(call, cover(call), run, torch.device("cpu"), most).result(), run.calls


def norm(x, weight):
    return F.rms_norm(x, x.shape[-1:], weight)


def in_float32(function):
    """The same with every step in float32, as a fused kernel has it."""
    return lambda *inputs: function(*(x.float() if x.is_floating_point() else x for x in inputs))


@pytest.mark.parametrize("dtype", [HALF, BFLOAT, FLOAT])
def test_a_plugin_that_rounds_otherwise_is_right(dtype):
    found, calls = compare(norm, (dtype, (ROWS, 96)), (dtype, (96,)), plugin=in_float32(norm))
    assert len(found.shapes) == len(calls) >= 4 and found.reason == ""
    assert found.shapes[0] == f"x0 {str(dtype)[6:]} [1, 96], x1 {str(dtype)[6:]} [96]"
    assert 0 <= found.error < 2e-2


def test_every_call_gets_numbers_of_its_own_range():
    _, calls = compare(norm, (HALF, (ROWS, 96)), (HALF, (96,)))
    for x, weight in calls:
        assert x.abs().max() <= 3 and x.std() > 0.5 and not torch.equal(x[0], weight)


def wrong_at_the_end(x):
    y = x.softmax(-1)
    if x.shape[-1] % 2:
        y[..., -1] = 0
    return y


def test_a_wrong_result_names_operator_shape_dtype_and_error():
    def softmax(x):
        return x.softmax(-1)

    with pytest.raises(BuildError) as caught:
        compare(softmax, (FLOAT, (ROWS, WIDTH)), plugin=wrong_at_the_end)
    text = str(caught.value)
    assert text.startswith("tracing_test::softmax: its generated plugin gives a wrong result for x0 float32 [1, 1]: ")
    assert "output 0, float32, differs from PyTorch's by 1 of the largest value, where rounding explains" in text
    assert text.endswith("1 of 1 elements are wrong")


def test_an_element_that_is_never_written_is_wrong():
    call = call_of_body(norm, (HALF, (ROWS, 96)), (HALF, (96,)))

    def leaves_one_out(inputs, outputs):
        outputs[0][:, 1:] = norm(*inputs)[:, 1:]

    with pytest.raises(BuildError, match="differs from PyTorch's by inf of the largest value"):
        Comparison(call, cover(call), leaves_one_out, torch.device("cpu"), 1 << 20).result()


def test_the_second_of_two_outputs_is_compared_too():
    def both(x):
        return x.exp(), x.argmax(-1)

    with pytest.raises(BuildError, match=r"output 1, int64, .*; 4 of 4 elements are wrong"):
        compare(both, (HALF, (4, 7)), plugin=lambda x: (x.exp(), x.argmax(-1) + 1))
    found, _ = compare(both, (HALF, (4, 7)))
    assert found.error == 0


def test_integers_are_zeros():
    def picked(table, index):
        return table[index] * 2

    found, calls = compare(picked, (FLOAT, (5, 8)), (LONG, ((1, 100, 7),)))
    assert len(found.shapes) >= 4 and all(not index.any() for _, index in calls)


def test_a_function_that_random_numbers_would_lead_astray_is_not_run():
    """On a GPU, an index out of range ends the process."""

    def looked_up(x, table):
        return table[(x * 100).long()]

    found, calls = compare(looked_up, (FLOAT, (WIDTH,)), (FLOAT, (16,)))
    assert calls == [] and found.shapes == () and found.reason.startswith("IndexError: ")


def test_a_function_of_probabilities_gets_some():
    def loss(probability):
        return F.binary_cross_entropy(probability, probability.square(), reduction="none")

    found, calls = compare(loss, (FLOAT, (WIDTH,)))
    assert found.reason == "" and all(x.min() >= 0 and x.max() <= 1 for (x,) in calls)


def test_a_function_that_fixes_a_dtype_is_compared_in_that_alone():
    def mixed(x):
        return x @ torch.ones(8, 3, dtype=x.dtype if x.dtype == HALF else HALF, device=x.device)

    found, calls = compare(mixed, (HALF, (ROWS, 8)))
    assert len(calls) == len(found.shapes) >= 3
    with pytest.raises(BuildError):
        compare(mixed, (HALF, (ROWS, 8)), plugin=lambda x: mixed(x) + 2)


def test_a_call_that_the_gpu_has_no_memory_for_is_left_out():
    def twice(x):
        return x * 2

    def run(inputs, outputs):
        if inputs[0].numel() > SMALL:
            raise torch.OutOfMemoryError("out of memory")
        outputs[0].copy_(inputs[0] * 2)

    call = call_of_body(twice, (FLOAT, ((1, 1 << 19, 64),)))
    found = Comparison(call, cover(call), run, torch.device("cpu"), 1 << 20).result()
    assert len(found.shapes) >= 3 and "524288" not in str(found.shapes)


def test_without_memory_for_any_call_nothing_is_said_of_the_function():
    def run(inputs, outputs):
        raise torch.OutOfMemoryError("out of memory")

    call = call_of_body(in_float32(norm), (FLOAT, (ROWS, 96)), (FLOAT, (96,)))
    assert Comparison(call, cover(call), run, torch.device("cpu"), 1 << 20).result() == Compared(())


def test_a_large_call_without_dynamic_extents_is_compared_and_a_huge_one_is_not():
    large, _ = compare(torch.neg, (HALF, (300, 400)))
    assert large.shapes == ("x0 float16 [300, 400]",)
    huge, calls = compare(torch.neg, (HALF, (3000, 4000)), most=1 << 30)
    assert calls == [] and huge.reason.startswith("its least call is too large")


def test_random_numbers_of_the_caller_stay_his():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    compare(norm, (HALF, (ROWS, 96)), (HALF, (96,)))
    assert torch.equal(torch.rand(2), expected)
