"""Triton kernels of packages on the Python index become plugins, in ops of a few lines around them."""

import json

import fresh_process
import pytest
import torch
from public_kernels import KERNELS
from public_kernels.kernel import Calls, resized
from triton.runtime.autotuner import Autotuner

import bridge
from bridge.testing import check_error

NOT_INTERPRETED = {
    "flag_gems": "its wrapper of kernels takes none that is interpreted",
    "fla.linear_attention": "it casts an integer that the interpreter holds as Python's",
}


@pytest.fixture
def few_configurations(monkeypatch):
    """Tuners have two configurations, to compile fewer kernels."""
    pruned = Autotuner.prune_configs
    monkeypatch.setattr(Autotuner, "prune_configs", lambda self, kwargs: pruned(self, kwargs)[:2])


@pytest.mark.parametrize("name", KERNELS)
def test_engine(name, few_configurations):
    """One engine with the op as a plugin, or the reason why there is none."""
    kernel = KERNELS[name]()
    inputs = kernel.inputs(kernel.dtypes[-1])
    compiling = {"dynamic_shapes": (tuple(kernel.dynamic),), "target": "sm86", "cache": False}
    if kernel.refusal:
        with pytest.raises(bridge.errors.UnsupportedOpError, match=kernel.refusal):
            bridge.compile(Calls(kernel).eval(), inputs, **compiling)
        return
    compiled = bridge.compile(Calls(kernel).eval(), inputs, **compiling)
    ((plugin, count),) = compiled.plugin_counts().items()
    assert plugin.startswith(f"{kernel.op._qualname}_") and count == 1


_INTERPRET = """
import json, sys
import torch
import conftest
import interpreted_kernels, region_interpreter
region_interpreter.complete_interpreter()
from public_kernels import KERNELS
from public_kernels.kernel import Calls, resized
from bridge.generate.tracing import calls, regions

POINTS = {
    "example": None,
    "least": lambda dim: dim.min,
    "between": lambda dim: (2 * dim.min + dim.max) // 3 | 1,
    "few rows": lambda dim: dim.min if dim.__name__ in ("rows", "batch") else max(dim.min, min(dim.max, 67)),
}

def errors(kernel, instance, order, size_of, dtype):
    inputs = resized(kernel, dtype, size_of) if size_of else kernel.inputs(dtype)
    expected = kernel.reference(*inputs, **kernel.attributes)
    expected = [expected] if isinstance(expected, torch.Tensor) else list(expected)
    actual = region_interpreter.run_instance(instance, [inputs[i] for i in order])
    for mine, its in zip(actual, expected, strict=True):
        assert mine.shape == its.shape and mine.dtype == its.dtype, (mine.shape, its.shape, mine.dtype, its.dtype)
        scale = max(its.double().abs().max().item(), 1.0)
        yield (mine.double() - its.double()).abs().max().item() / scale

def report(name):
    kernel = KERNELS[name]()
    if kernel.refusal:
        return None
    dtype = kernel.dtypes[0]
    dynamic = (tuple(kernel.dynamic),)
    program = torch.export.export(Calls(kernel), kernel.inputs(dtype), dynamic_shapes=dynamic, strict=False)
    (node,) = [n for n in program.graph.nodes if n.target is kernel.op._opoverload]
    call, nodes = calls.call_of(node, calls.body_of(node.target))
    with interpreted_kernels.traceable():
        instance = regions.cover(call)
    inputs = [n for n in program.graph.nodes if n.op == "placeholder"]
    order = [inputs.index(n) for n in nodes]
    for label, size_of in POINTS.items():
        for error in errors(kernel, instance, order, size_of, dtype):
            if not error <= kernel.tolerance:
                return f"at the point {label!r} the error is {error}"

for name in sys.argv[1:]:
    try:
        result = report(name)
    except BaseException as error:  # pytest's skip is one
        result = f"{type(error).__name__}: {error}"
    print(json.dumps([name, result]))
"""


def test_regions_compute_what_references_do():
    """By Triton's interpreter, at the example, the profile's least extents, and odd ones."""
    names = [name for name in KERNELS if not NOT_INTERPRETED.keys() & {name, name.partition(".")[0]}]
    done = fresh_process.run(_INTERPRET, *names, TRITON_INTERPRET="1", PYTHONWARNINGS="ignore")
    assert done.returncode == 0, done.stderr
    reports = dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith('["'))
    assert reports.keys() == set(names), done.stdout
    reasons = {name: report for name, report in reports.items() if report}
    assert not {name: reason for name, reason in reasons.items() if not reason.startswith("Skipped: ")}
    if reasons:
        pytest.skip(f"{len(reasons)} kernels: {', '.join(sorted(set(reasons.values())))}")


@pytest.mark.gpu(engines=True)
@pytest.mark.parametrize("name", KERNELS)
def test_engine_against_the_kernel_itself(name):
    """In each dtype and at the profile's ends and between them: as near the reference in float64 as the op is."""
    kernel = KERNELS[name]()
    if kernel.refusal:
        pytest.skip(f"is refused: {kernel.refusal}")
    for dtype in kernel.dtypes:
        example = [x.cuda() for x in kernel.inputs(dtype)]
        net = bridge.compile(Calls(kernel).eval(), example, dynamic_shapes=(tuple(kernel.dynamic),))
        for step in range(10):
            inputs = resized(kernel, dtype, lambda dim, step=step: dim.min + (dim.max - dim.min) * step // 9)
            wide = [x.double() if x.is_floating_point() else x for x in inputs]
            exact = kernel.reference(*wide, **kernel.attributes)
            inputs = [x.cuda() for x in inputs]
            results = [_listed(each) for each in (exact, kernel.op(*inputs, **kernel.attributes), net(*inputs))]
            for number, triple in enumerate(zip(*results, strict=True)):
                check_error(f"{name}, output {number}, {dtype}, step {step}", *(x.cpu() for x in triple))


def _listed(results):
    return [results] if isinstance(results, torch.Tensor) else list(results)
