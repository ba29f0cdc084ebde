"""check_library: a small library without a kernel passes, and each fault of an op is found and named."""

import itertools
from collections import Counter

import pytest
import torch
from own_ops import forgotten
from torch import Tensor

import bridge
from bridge.core.library import LIBRARIES
from bridge.core.op import OPS, op, require
from bridge.core.tensors import Floating
from bridge.errors import LibraryError
from bridge.testing import LibraryCheckError, SampleError, check_library, check_memory, library, samples_of

NUMBERS = itertools.count()
ODD_AND_EMPTY = "[('odd', [torch.randn(3, 5)], {}), ('empty', [torch.randn(0, 5)], {})]"


class Checked:
    """A library of a namespace that no other test has; its samples are in a folder."""

    def __init__(self, folder):
        self.folder = folder
        self.namespace = f"checked_{next(NUMBERS)}"

    def define(
        self, reference, samples="[('odd', [torch.randn(3, 5)], {}), ('empty', [torch.randn(0, 5)], {})]", more=""
    ):
        op(f"{self.namespace}::{reference.__name__}")(reference)
        body = f"import torch\n\n\ndef samples():\n    return {samples}\n\n\n{more}"
        (self.folder / f"{reference.__name__}.py").write_text(body)
        return OPS[f"{self.namespace}::{reference.__name__}"]

    def check(self, **settings):
        return check_library(self.namespace, samples=self.folder, **settings)

    def failures(self):
        """(check, sample) of what fails, and the text of the report."""
        with pytest.raises(LibraryCheckError) as caught:
            self.check()
        text = str(caught.value).replace(self.namespace, "checked")
        return [(each.check, each.sample) for each in caught.value.report.failed], text


@pytest.fixture
def checked(tmp_path):
    with forgotten():
        yield Checked(tmp_path)


def sound(x: Tensor, scale: float = 2.0) -> Tensor:
    return x * scale


def test_a_sound_op_passes_and_what_is_skipped_says_why(checked):
    seen = []
    checked.define(sound)
    report = checked.check(progress=seen.append)
    assert seen == report.results and not report.failed
    counts = Counter((each.check, each.outcome) for each in report.results)
    assert counts["call", "passed"] == counts["memory", "passed"] == counts["layouts", "passed"] == 2
    assert counts["gradient", "passed"] == counts["export", "passed"] == counts["extents", "passed"] == 1
    assert {each.check for each in report.skipped} == {
        *("schemas", "shapes", "engine", "engine values", "kernel", "kernel layouts")
    }
    assert all(each.reason for each in report.skipped)
    assert f"lib{checked.namespace}_plugins.so is not in" in str(report) and f"{checked.namespace}::sound" in str(
        report
    )


def test_other_faults_are_found_beside_a_sound_op(checked):
    checked.define(sound)

    def wrong_gradient(x: Tensor) -> Tensor:
        return x * x.detach()

    checked.define(wrong_gradient)
    failed, text = checked.failures()
    assert failed == [("gradient", "odd")]
    assert "checked::wrong_gradient: gradient FAILED, sample 'odd': GradcheckError" in text
    assert not [line for line in text.splitlines() if line.startswith("checked::sound: ")]


def test_an_output_that_is_an_input(checked):
    def alias(x: Tensor) -> Tensor:
        return x * 1

    checked.define(alias)
    LIBRARIES[checked.namespace].fragment.impl("alias", lambda x: x.view_as(x), "CPU", allow_override=True)
    failed, text = checked.failures()
    assert ("memory", "odd") in failed
    assert "memory FAILED, sample 'odd': output 0 shares memory with x" in text


def test_outputs_that_share_memory(checked):
    def twins(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x * 2
        return y, y

    checked.define(twins)
    with pytest.raises(AssertionError, match="output 1 shares memory with output 0"):
        check_memory(OPS[f"{checked.namespace}::twins"], torch.randn(3))
    check_memory(OPS[f"{checked.namespace}::twins"], torch.randn(0))


def test_memory_of_another_storage(checked):
    def hidden(x: Tensor) -> Tensor:
        return torch.from_numpy(x.numpy()) if type(x) is Tensor and x.device.type == "cpu" else x * 1

    checked.define(hidden)
    with pytest.raises(AssertionError, match="output 0 shares memory with x"):
        check_memory(OPS[f"{checked.namespace}::hidden"], torch.randn(3))


def test_a_reference_that_writes_to_its_input(checked):
    def writes(x: Tensor) -> Tensor:
        return x.mul_(2) * 1

    checked.define(writes)
    failed, text = checked.failures()
    assert failed[0] == ("call", "odd") and "the call changes its input x" in text
    assert "skipped  all others" in text


def test_a_dtype_that_the_reference_does_not_take(checked):
    def in_floats(x: Floating) -> Tensor:
        if x.dtype == torch.bfloat16:
            raise TypeError("no such table")
        return x * 2

    checked.define(in_floats)
    failed, text = checked.failures()
    assert failed == [("dtypes", "odd"), ("dtypes", "empty")]
    assert "x bfloat16: the reference raises TypeError: no such table" in text


def test_a_second_tensor_in_every_dtype(checked):
    from bridge.core.tensors import Index

    def takes(x: Floating, i: Index) -> Tensor:
        if i.dtype == torch.int32:
            raise TypeError("int64 alone")
        return x[i]

    checked.define(takes, "[('two', [torch.randn(3, 5), torch.tensor([2, 0])], {})]")
    _, text = checked.failures()
    assert "x float32, i int32: the reference raises TypeError: int64 alone" in text


def test_an_extent_that_is_made_a_number(checked):
    def rows(x: Tensor) -> Tensor:
        total = torch.zeros_like(x[:1])
        for row in range(int(x.shape[0])):
            total = total + x[row : row + 1]
        return total

    checked.define(rows)
    failed, text = checked.failures()
    assert failed == [("open axes", "odd")]
    assert "a trace fixes axis 0 of x at 3, and the reference takes 4 too" in text


def test_an_extent_that_a_model_cannot_leave_open_anyway(checked):
    def columns(x: Tensor) -> Tensor:
        return torch.stack([x[:, i] for i in range(int(x.shape[1]))], 1)

    checked.define(columns, more="def open_axes(tensors):\n    return {0: [0]}\n")
    assert not checked.check().failed


def test_extents_that_are_tied_change_together(checked):
    def pair(x: Tensor, y: Tensor) -> Tensor:
        require(x.shape[0] == y.shape[1], f"pair: x has {x.shape[0]} rows, y {y.shape[1]} columns")
        require(x.shape[1] == 3, f"pair: x has {x.shape[1]} columns, expected 3")
        return y @ x

    checked.define(pair, "[('one', [torch.randn(5, 3), torch.randn(7, 5)], {})]")
    report = checked.check()
    assert [each.outcome for each in report.results if each.check in ("extents", "open axes")] == ["passed"] * 2


def test_a_fault_at_an_empty_extent(checked):
    def mean(x: Tensor) -> Tensor:
        return x.sum(0) * (1 / x.shape[0])

    checked.define(mean, "[('odd', [torch.randn(3, 5)], {})]")
    failed, text = checked.failures()
    assert failed == [("extents", "odd")]
    assert "x [0, 5]: the reference raises ZeroDivisionError" in text and "or raise an OpInputError" in text


def test_a_sample_that_raises(checked):
    def root(x: Tensor, power: int = 2) -> Tensor:
        return x ** (1 / power)

    checked.define(root, "[('by zero', [torch.rand(3)], {'power': 0})]")
    failed, text = checked.failures()
    assert failed == [("call", "by zero")] and "ZeroDivisionError" in text
    (checked.folder / "root.py").write_text("def samples():\n    return [][0]\n")
    failed, text = checked.failures()
    assert failed == [("samples", "")] and "IndexError" in text


@pytest.mark.parametrize(
    ("samples", "text"),
    [
        ("[('label', [torch.ones(2)])]", r"sample 0 is \('label', .*expected \(label, args, kwargs\)"),
        ("['abc']", r"sample 0 is 'abc', expected \(label, args, kwargs\)"),
        ("[('label', [3], {})]", r"the first argument of sample 'label' is no tensor"),
    ],
)
def test_what_is_no_sample(checked, samples, text):
    checked.define(sound, samples)
    with pytest.raises(SampleError, match=text):
        samples_of(f"{checked.namespace}::sound", checked.folder)


def test_an_op_without_samples_is_named(checked):
    checked.define(sound)
    (checked.folder / "sound.py").unlink()
    failed, text = checked.failures()
    assert (
        failed == [("samples", "")] and "checked::sound has no samples: define sound_samples() in test_library" in text
    )


def test_a_wrong_schema_is_a_failure(checked):
    checked.define(sound)
    LIBRARIES[checked.namespace].problems["sound"] = "its reference and its op struct, sound.cu, disagree"
    failed, text = checked.failures()
    assert failed == [("schemas", "")] and "see schemas" in text


def test_names_of_ops_and_of_libraries(checked):
    checked.define(sound)
    assert library.op_names(LIBRARIES[checked.namespace], [f"{checked.namespace}::sound"]) == ["sound"]
    with pytest.raises(ValueError, match=r"no op of checked_\d+ is called 'sond'; there are sound"):
        check_library(checked.namespace, ["sond"])
    with pytest.raises(LibraryError, match="there is no library unheard_of"):
        check_library("unheard_of")


def test_few_samples_for_slow_checks(checked):
    five = "[(str(n), [torch.randn(n, 2)], {}) for n in range(5)]"
    checked.define(sound, five)
    report = checked.check(few=2)
    slow = [each.sample for each in report.results if each.check == "opcheck"]
    assert slow == ["1", "4"] and sum(each.check == "call" for each in report.results) == 5


def test_bridges_own_ops_pass():
    report = check_library("bridge", ["relu", "nms"], samples="samples", few=1)
    assert not report.failed
    engines = [each for each in report.results if each.check == "engine"]
    assert [each.outcome for each in engines] == ["passed", "passed"]


@pytest.mark.gpu(engines=True)
def test_bridges_own_ops_pass_on_a_gpu():
    report = check_library("bridge", ["relu", "rope", "roi_align"], samples="samples", few=1)
    assert not report.skipped, report
    assert bridge.testing.check_library is check_library
