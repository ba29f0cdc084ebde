"""Formulas in plain torch become kernels without a GPU, and Triton's interpreter computes with them what eager does."""

import json
import math

import fresh_process
import pytest
from formulas import FORMULAS

TOLERANCES = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2, "int64": 0, "int32": 0}  # of the greatest value
_EVALUATE = """
import json
import torch
import region_interpreter
from formulas import FORMULAS
from bridge.generate.inductor import lower
from bridge.generate.program import Launch

def errors(formula, lowered, point, configuration):
    tensors = formula.tensors(point)
    expected = formula.function(*tensors)
    expected = expected if isinstance(expected, (tuple, list)) else [expected]
    extents = dict(zip((one.symbol for one in formula.symbols()), point))
    actual = region_interpreter.run(lowered.region, tensors, lowered.outputs, extents, configuration)
    for mine, its in zip(actual, expected, strict=True):
        assert mine.shape == its.shape and mine.dtype == its.dtype, (mine.shape, its.shape, mine.dtype, its.dtype)
        scale = max(its.double().abs().max().item(), 1e-3)
        yield str(mine.dtype)[6:], ((mine.double() - its.double()).abs().max() / scale).item()

def report(formula):
    lowered = lower(formula.function, formula.types(), formula.symbols())
    launches = [step for step in lowered.region.steps if isinstance(step, Launch)]
    most = max(len(launch.configurations) for launch in launches)
    # The first and the last configuration at the first point, the default at the others.
    first, *rest = formula.points
    runs = [*((first, number) for number in sorted({0, most - 1})), *((point, 0) for point in rest)]
    return {
        "kernels": len(launches),
        "conditions": [str(one) for one in lowered.region.conditions],
        "errors": [(point, number, *one) for point, number in runs for one in errors(formula, lowered, point, number)],
    }

for name, formula in FORMULAS.items():
    try:
        result = report(formula)
    except Exception as error:
        result = {"failure": f"{type(error).__name__}: {error}"}
    print(json.dumps([name, result]))
"""


@pytest.fixture(scope="module")
def reports():
    done = fresh_process.run(_EVALUATE, TRITON_INTERPRET="1", PYTHONWARNINGS="ignore")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith('["'))


@pytest.mark.parametrize("name", FORMULAS)
def test_formula(reports, name):
    report = reports[name]
    assert "failure" not in report, report["failure"]
    assert report["kernels"] in FORMULAS[name].counts()
    for point, configuration, dtype, error in report["errors"]:
        assert error <= TOLERANCES[dtype] and not math.isnan(error), (point, configuration, dtype, error)


@pytest.mark.parametrize(
    ("name", "conditions"),
    [
        ("layer norm, GELU", []),  # a batch of 1 and a sequence of 1 included
        ("cumulative sum", ["b >= 2", "n >= 2"]),
        ("matmul, softmax", ["32*b*n**2 <= 2147483647"]),  # indices of 32 bits
    ],
)
def test_conditions(reports, name, conditions):
    assert reports[name]["conditions"] == conditions
