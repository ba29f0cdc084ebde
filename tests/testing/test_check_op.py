"""check_op of an op without a kernel: what can be checked is, and the report names the rest."""

from importlib.util import find_spec

import pytest
import torch
from own_ops import forgotten
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

import bridge
from bridge.core.op import OPS
from bridge.errors import LibraryError
from bridge.testing import check_op, checks

needs_rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="needs tensorrt_rtx")
NAMESPACE = "check_op_test"


def centred(x: bridge.Floating, scale: float = 1.0) -> Tensor:
    """x without its mean. x: [N, C]."""
    return (x - x.mean(-1, keepdim=True)) * scale


def sorted_rows(x: bridge.Floating) -> Tensor:
    """Rows in order. x: [N, C]."""
    return torch.sort(x, dim=0).values


def detached(x: bridge.Floating) -> Tensor:
    """Has no gradient, by mistake. x: [N]."""
    return x.detach() * 2


def wide(x: bridge.Floating) -> Tensor:
    """Fails in 16 bits. x: [N]."""
    if x.dtype == torch.float16:
        raise ValueError("no 16 bits")
    return x * 2


@pytest.fixture(scope="module", autouse=True)
def ops():
    """Makes them ops; other tests know nothing of them."""
    with forgotten():
        for function in (centred, sorted_rows, detached, wide):
            bridge.op(f"{NAMESPACE}::{function.__name__}")(function)
        yield


def outcomes(report):
    return {each.check: each.outcome for each in report.results}


@needs_rtx
def test_all_but_the_kernel_is_checked():
    report = check_op(OPS[f"{NAMESPACE}::centred"], torch.randn(5, 7), scale=0.5)
    passed = ("call", "memory", "dtypes", "opcheck", "gradient", "export", "engine")
    assert {name: outcomes(report)[name] for name in passed} == dict.fromkeys(passed, "passed")
    skipped = {each.check: each.reason for each in report.skipped}
    assert "lib" + NAMESPACE + "_plugins.so is not in" in skipped["shapes"] and "no kernel" in skipped["kernel"]
    assert not report.failed and f"{NAMESPACE}::centred" in str(report)


@needs_rtx
def test_an_op_that_no_plugin_can_be_made_of_says_why(monkeypatch):
    report = check_op(OPS[f"{NAMESPACE}::sorted_rows"], torch.randn(600, 3))
    (reason,) = [each.reason for each in report.skipped if each.check == "engine"]
    assert "it has no kernel, and none can be generated" in reason and "sort" in reason


def test_without_triton_the_engine_is_skipped(monkeypatch):
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    report = check_op(OPS[f"{NAMESPACE}::centred"], torch.randn(5, 7))
    (reason,) = [each.reason for each in report.skipped if each.check == "engine"]
    assert "Triton, which would make one, is not installed" in reason


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [("detached", GradcheckError, "Jacobian mismatch"), ("wide", AssertionError, "no 16 bits")],
)
def test_faults_are_found(name, kind, message):
    with pytest.raises(kind, match=message):
        check_op(OPS[f"{NAMESPACE}::{name}"], torch.randn(5))


def test_an_op_whose_library_is_missing_is_an_error(monkeypatch):
    monkeypatch.setenv(f"{NAMESPACE.upper()}_LIBRARY_DIR", "/nowhere")
    with pytest.raises(LibraryError, match="is not in /nowhere"):
        check_op(OPS[f"{NAMESPACE}::centred"], torch.randn(5, 7))
