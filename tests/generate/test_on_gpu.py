"""Generated plugins inside engines, on a GPU, against the operators that they were made from.

Each at ten combinations of extents, from two streams at once, and replayed as a CUDA graph.
"""

import itertools
import threading

import pytest
import torch
import triton_ops
from formulas import FORMULAS, RANGES
from programs import Function
from public_kernels import KERNELS
from public_kernels.kernel import Calls
from torch.export import Dim

import bridge
from bridge.engine.compiled import CompiledModule
from bridge.testing import DTYPES

pytestmark = pytest.mark.gpu(engines=True)
EXTENTS = (1, 2, 3, 7, 16, 33, 64, 100, 128, 200, 255, 256, 300)


def check(engine, model, exact_model, points, make):
    """Compares an engine with its model at points: plainly, replayed, and from two threads on streams of their own."""
    replayed = CompiledModule(engine.file, cuda_graph=True)
    for point in points:
        inputs = make(point)
        with torch.no_grad():
            eager = outputs(model(*inputs))
            exact = in_float64(exact_model, inputs) or [wide(each) for each in eager]
        compare(point, eager, exact, outputs(engine(*inputs)))
        for _ in range(2):
            compare(f"{point}, replayed", eager, exact, outputs(replayed(*inputs)))
    compare_streams(engine, [make(point) for point in points[:2]])


def compare_streams(engine, batches):
    expected = [outputs(engine(*inputs)) for inputs in batches]
    faults = []

    def run(inputs, results):
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(20):
                for mine, theirs in zip(outputs(engine(*inputs)), results, strict=True):
                    if not torch.equal(mine.nan_to_num(), theirs.nan_to_num()):
                        faults.append((mine.double() - theirs.double()).abs().max().item())
            torch.cuda.current_stream().synchronize()

    threads = [threading.Thread(target=run, args=pair) for pair in zip(batches, expected, strict=True)]
    torch.cuda.synchronize()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(faults, default=0.0) < 1e-2, faults


def in_float64(model, inputs):
    """The results in float64; None: the formula fixes dtypes of its own."""
    torch.set_default_dtype(torch.float64)
    try:
        return [wide(each) for each in outputs(model(*map(wide, inputs)))]
    except RuntimeError:
        return None
    finally:
        torch.set_default_dtype(torch.float32)


def compare(what, eager, exact, results):
    """At most four times the error of the operator itself, which sums in another order, and a few roundings."""
    for place, (right, theirs, ours) in enumerate(zip(exact, eager, results, strict=True)):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        if not ours.is_floating_point():
            assert torch.equal(ours, theirs), f"output {place} at {what}"
            continue
        scale = right[right.isfinite()].abs().max().item() if right.isfinite().any() else 0.0
        allowed = 4 * largest(theirs.double() - right) + 8 * torch.finfo(ours.dtype).eps * scale
        assert torch.equal(ours.isfinite(), theirs.isfinite()), f"output {place} at {what}: infinities"
        error = largest(ours.double() - right)
        assert error <= allowed, f"output {place} at {what}: error {error:.3g}, allowed {allowed:.3g}"


def largest(difference):
    finite = difference[difference.isfinite()]
    return finite.abs().max().item() if finite.numel() else 0.0


def outputs(results):
    return list(results) if isinstance(results, (tuple, list)) else [results]


def wide(tensor):
    return tensor.double() if tensor.is_floating_point() else tensor


def points_within(limits, count=10):
    """Extents between limits, the ends among them."""
    choices = [sorted({low, high, *(e for e in EXTENTS if low <= e <= high)}) for low, high in limits]
    every = list(itertools.product(*choices))
    return list(dict.fromkeys([every[0], every[-1], *every[:: max(1, len(every) // count)]]))[:count]


def custom_op(name, function, count, results):
    """An operator in plain torch, defined as users do."""
    parameters = ", ".join(f"Tensor x{i}" for i in range(count))
    returns = "Tensor" if results == 1 else f"({', '.join(['Tensor'] * results)})"

    def body(*inputs):
        made = function(*inputs)
        return made.clone() if isinstance(made, torch.Tensor) else tuple(each.clone() for each in made)

    op = torch.library.custom_op(name, body, mutates_args=(), schema=f"({parameters}) -> {returns}")
    op.register_fake(body)
    return op


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", list(FORMULAS))
def test_formulas_in_plain_torch(name, dtype):
    if name in NOT_HERE:
        pytest.skip(NOT_HERE[name])
    formula = FORMULAS[name]
    symbols = formula.symbols()
    tag = "".join(c if c.isalnum() else "_" for c in name.lower())

    def make(point):
        made = formula.tensors(point)
        return [each.to("cuda", dtype if each.is_floating_point() else each.dtype) for each in made]

    example = make([RANGES[each.symbol][2] for each in symbols])
    results = len(outputs(formula.function(*example)))
    op = custom_op(f"formula_{str(dtype)[6:]}::{tag}", formula.function, len(example), results)
    dims = {each.symbol: dimension(name, each) for each in symbols}
    dynamic = tuple({axis: dims[e] for axis, e in enumerate(shape) if e in dims} for _, *shape in formula.inputs)
    engine = bridge.compile(Function(op).eval(), tuple(example), dynamic_shapes=(dynamic,))
    assert sum(engine.plugin_counts().values()) == 1
    small = [(each.low, min(each.high, MOST.get(name, 300))) for each in symbols]
    points = [p for p in points_within(small, 40) if fits(name, p)][:10]
    check(engine, Function(op), Function(formula.function), points, make)


NOT_HERE = {
    "cross entropy": "torch's run_decompositions gives nll_loss without a reduction the shape of a number",
    "gated recurrent cell": "torch has no rule for the shapes of its own GRU cell on a GPU, so nothing is exported",
    "integer matmul": "PyTorch multiplies no integer matrices on a GPU, so there is nothing to compare with",
}
MOST = {"linear recurrence": 8, "cumulative product": 64}  # later on, numbers overflow
MULTIPLES = {"shifted windows": 4, "pixel unshuffle": 2}  # of height and width


def dimension(name, symbol):
    step = MULTIPLES.get(name, 1) if str(symbol.symbol) in "hw" else 1
    if step == 1:
        return Dim(str(symbol.symbol), min=symbol.low, max=symbol.high)
    return step * Dim(f"{symbol.symbol}_parts", min=-(-symbol.low // step), max=symbol.high // step)


def fits(name, point):
    return all(extent % MULTIPLES.get(name, 1) == 0 for extent in point[1:])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", list(KERNELS))
def test_public_kernels(name, dtype):
    kernel = KERNELS[name]()
    if kernel.refusal or dtype not in kernel.dtypes:
        pytest.skip(f"{name} is refused, or is not for {dtype}")
    model = Calls(kernel).eval()
    example = tuple(each.cuda() for each in kernel.inputs(dtype))
    engine = bridge.compile(model, example, dynamic_shapes=(kernel.dynamic,))
    assert sum(engine.plugin_counts().values()) == 1
    roots = [getattr(d, "root", d) for axes in kernel.dynamic if axes for d in axes.values()]
    dims = {root.__name__: (root.min, root.max) for root in roots}

    def make(point):
        known = dict(zip(dims, point, strict=True))
        return [resized(each, axes or {}, known) for each, axes in zip(example, kernel.dynamic, strict=True)]

    def reference(*inputs):
        return kernel.reference(*inputs, **kernel.attributes)

    check(engine, model, Function(reference), points_within(list(dims.values())) if dims else [()], make)


def extent_of(dim, known):
    """A Dim's extent; one such as 2 * Dim("half") is made of another's."""
    return dim.fn(known[dim.root.__name__]) if hasattr(dim, "root") else known[dim.__name__]


def resized(tensor, axes, known):
    shape = [extent_of(axes[axis], known) if axis in axes else extent for axis, extent in enumerate(tensor.shape)]
    if not tensor.is_floating_point():
        repeats = [-(-extent // old) for extent, old in zip(shape, tensor.shape, strict=True)]
        return tensor.repeat(repeats)[tuple(slice(extent) for extent in shape)].contiguous()
    generator = torch.Generator().manual_seed(len(shape))
    return torch.randn(shape, generator=generator).to("cuda", tensor.dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_two_kernels_with_a_temporary(dtype):
    rows, width = Dim("rows", min=1, max=64), Dim("width", min=1, max=4000)
    example = torch.randn(4, 1000).to("cuda", dtype), torch.randn(1000).to("cuda", dtype)
    engine = bridge.compile(
        Function(triton_ops.rms_norm).eval(), example, dynamic_shapes=(({0: rows, 1: width}, {0: width}),)
    )
    points = [(1, 1), (64, 4000), (3, 17), (5, 16), (2, 255), (7, 256), (9, 257), (33, 1024), (4, 1000), (1, 3999)]

    def make(point):
        return torch.randn(point).to("cuda", dtype), torch.randn(point[1]).to("cuda", dtype)

    check(engine, Function(triton_ops.rms_norm), Function(triton_ops.rms_norm_reference), points, make)
