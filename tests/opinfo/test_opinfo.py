"""A part of torch's OpInfo samples against PyTorch, static and dynamic; opinfo_sweep.py runs them all."""

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from opinfo_judge import LACKS, RAW, REFUSED, RIGHT, UNBUILT, WRONG, Judge, Verdict
from opinfo_samples import Call, Case, cases, operators

# Each group is one model, or few.
_GROUPS = {
    "pointwise": "add ceil clamp div.floor_rounding fmod gt isfinite lerp pow remainder rsqrt where",
    "activations": "nn.functional.celu nn.functional.gelu nn.functional.hardswish nn.functional.softplus",
    "sums": "amax argmin cumsum logsumexp prod std nn.functional.softmin",
    "products": "addmm baddbmm einsum matmul nn.functional.linear nn.functional.scaled_dot_product_attention",
    "windows": "nn.functional.avg_pool2d nn.functional.conv2d nn.functional.conv_transpose2d nn.functional.max_pool2d"
    " nn.functional.interpolate.bilinear nn.functional.pad.reflect nn.functional.group_norm",
    "places": "__getitem__ cat diagonal expand flip gather narrow roll select slice sort stack tile topk tril",
}


@pytest.fixture(scope="module")
def table() -> dict[str, object]:
    return {op.full_name: op for op in operators()}


def _alternating(table: dict[str, object], names: str) -> Iterator[Case]:
    """One case of each operator, of the samples tried that with the most elements, its extents fixed and varying in
    turn."""
    for place, name in enumerate(names.split()):
        found = [case for case in cases(table[name], 6, [torch.float32]) if not case.constants]
        wanted = [case for case in found if case.dynamic == bool(place % 2)]
        yield max(wanted or found, key=lambda case: min(sum(map(torch.numel, case.inputs)), 2000))


@pytest.mark.parametrize("group", _GROUPS)
def test_results_are_eager(group: str, table: dict[str, object]) -> None:
    chosen = list(_alternating(table, _GROUPS[group]))
    verdicts = list(Judge(marks=("firsts", "first")).judge(chosen))
    assert len(verdicts) == len(chosen) == len(_GROUPS[group].split())
    faults = [
        f"{each.case}: {each.outcome}: {each.detail}" for each in verdicts if each.outcome not in (RIGHT, REFUSED)
    ]
    assert not faults, "\n".join(faults)
    refused = [f"{each.case}: {each.detail}" for each in verdicts if each.outcome == REFUSED]
    assert 4 * len(refused) <= len(chosen), "\n".join(refused)


def _judged(function: object, *inputs: torch.Tensor) -> Verdict:
    model = Call(function, (inputs, {}), False).eval()  # type: ignore[arg-type]
    (verdict,) = Judge().judge([Case("op", torch.float32, 0, False, False, model, inputs)])
    return verdict


def test_faults_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    import layer_interpreter.pointwise as pointwise

    x = torch.randn(3)
    assert _judged(torch.sin, x).outcome == RIGHT
    refused = _judged(torch.linalg.eigvals, torch.eye(3))
    assert refused.outcome == REFUSED and "UnsupportedOpError" in refused.detail
    monkeypatch.setitem(pointwise._UNARY, "SIN", torch.cos)
    assert _judged(torch.sin, x).outcome == WRONG
    monkeypatch.delitem(pointwise.LAYERS, "UNARY")
    assert _judged(torch.sin, x).outcome == LACKS
    monkeypatch.setattr("bridge.doors.compiler.describe", None)
    assert _judged(torch.sin, x).outcome == RAW


def test_one_refusal_spares_the_others_of_its_model() -> None:
    models = [Call(function, ((torch.eye(3),), {}), False).eval() for function in (torch.sin, torch.linalg.eigvals)]
    chosen = [Case(str(k), torch.float32, 0, False, False, model, (torch.eye(3),)) for k, model in enumerate(models)]
    assert {each.operator: each.outcome for each in Judge().judge(chosen)} == {"0": RIGHT, "1": REFUSED}
    assert UNBUILT not in {each.outcome for each in Judge().judge(chosen)}


def test_equal_values_may_be_in_any_order(monkeypatch: pytest.MonkeyPatch, table: dict[str, object]) -> None:
    x = torch.tensor([[2.0, 1.0, 2.0, 1.0]])
    found = next(case for case in cases(table["argsort"], 1, [torch.float32]))
    case = dataclasses.replace(found, model=Call(torch.argsort, ((x,), {}), False), inputs=(x,), places=(0, -1))
    judge, expected = Judge(), torch.tensor([[1, 3, 0, 2]])
    assert not judge._difference(case, (x,), torch.tensor([[3, 1, 2, 0]]), expected)
    for wrong in ([[3, 0, 2, 1]], [[3, 3, 2, 0]], [[1, 3, 0, 4]]):
        assert judge._difference(case, (x,), torch.tensor(wrong), expected), wrong
    chosen = [case for name in ("argsort", "kthvalue", "topk", "sort", "median") for case in cases(table[name], 3)]
    assert {case.dtype for case in chosen} >= {torch.int64, torch.float16} and all(case.places for case in chosen[:3])


def _tf32(x: torch.Tensor) -> torch.Tensor:
    """Cut off after 10 bits of mantissa."""
    return (x.view(torch.int32) & ~0x1FFF).view(torch.float32)


def test_engines_may_round_products_alone() -> None:
    a, b = torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(0)) * 30
    products = {
        "product": lambda a, b: a @ b,
        "chain": lambda a, b: a @ (b @ a),
        "sum at indices": lambda a, b: b.index_add(0, torch.arange(64) % 7, a * 30),
    }
    engines = Judge(engines=True)
    for name, product in products.items():
        case = Case(name, torch.float32, 0, False, False, Call(product, ((a, b), {}), False), (a, b))
        expected, rounded = product(a, b), product(_tf32(a), _tf32(b))
        assert not engines._difference(case, (a, b), rounded, expected), name
        assert Judge()._difference(case, (a, b), rounded, expected), name
        assert engines._difference(case, (a, b), expected + 0.05 * expected.abs().max(), expected), name
    case = Case("add", torch.float32, 0, False, False, Call(torch.add, ((a, b), {}), False), (a, b))
    assert engines._difference(case, (a, b), _tf32(a) + _tf32(b), a + b)
