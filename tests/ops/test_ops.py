"""What holds for every op: its files, its schema in both languages, and the checks of bridge.testing."""

from pathlib import Path

import pytest
import torch
from own_ops import forgotten
from samples import MODULES, PAIRS, RANDOM, SAMPLES, lacking

import bridge
from bridge.core import libraries
from bridge.core.library import LIBRARIES, check_schemas
from bridge.core.op import OPS, Pair, op, shares_memory, written
from bridge.errors import LibraryError, OpDefinitionError, OpInputError
from bridge.testing import DTYPES, cast, check_cuda, check_op, check_shapes, outputs_of
from bridge.testing.arguments import with_dtype

ROOT = Path(__file__).parents[2]
OWN = LIBRARIES["bridge"]
ALL = [pytest.param(name, *sample, id=f"{name} {sample[0]}") for name, make in SAMPLES.items() for sample in make()]
# Small samples of an op for the slow checks (tracing and finite differences).
FEW = [
    pytest.param(name, *make()[place], id=f"{name} {place}")
    for name, make in SAMPLES.items()
    for place in getattr(MODULES[name], "CHECKED", (0, 2))
]


@pytest.mark.parametrize("name", OPS)
def test_op_has_its_four_files(name):
    for path in ("csrc/kernels/*/{}.cuh", "csrc/ops/*/{}.cu", "bridge/ops/**/{}.py", "tests/ops/**/test_{}.py"):
        assert len(list(ROOT.glob(path.format(name)))) == 1, path.format(name)
    assert (OPS[name].reference.__doc__ or "").strip(), "a reference needs a docstring"


def test_every_file_is_an_op_and_tested():
    for pattern in ("csrc/ops/*/*.cu", "bridge/ops/**/*.py"):
        stems = {path.stem for path in ROOT.glob(pattern)} - {"__init__"}
        assert stems == set(written()), pattern
    assert set(MODULES) == set(written())


@pytest.mark.parametrize("name", OPS)
def test_every_op_has_samples(name):
    assert not (missing := lacking(name)), f"tests/ops/samples/{name}.py does not define {', '.join(missing)}"


def test_schemas_agree():
    check_schemas(OWN.ops, OWN.plugins().schemas)


@pytest.mark.parametrize(
    ("schemas", "text"),
    [
        ({}, r"relu has no plugin; there are .*Build the native libraries again"),
        (
            {"relu": "relu(Tensor x, float negative_slope=0.5, float? max_value=None) -> Tensor"},
            r"op relu: its reference and its op struct, relu\.cu, disagree\.\n.*\n.*negative_slope=0\.5",
        ),
        ({"relu": OPS["relu"].schema_text(), "other": "other(Tensor x) -> Tensor"}, r"other\(.* has no op in Python"),
    ],
)
def test_schemas_that_disagree_are_named(schemas, text):
    with pytest.raises(LibraryError, match=text):
        check_schemas({"relu": OPS["relu"]}, schemas)


def test_missing_library_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("BRIDGE_LIBRARY_DIR", str(tmp_path))
    with pytest.raises(LibraryError, match=r"libbridge_plugins.so is not in .*Build it"):
        libraries.plugin_library()
    assert OWN.find("torch") is None


def test_damaged_library_is_an_error(monkeypatch, tmp_path):
    (tmp_path / OWN.file_name("plugins")).write_bytes(b"\x7fELF but no more")
    monkeypatch.setenv("BRIDGE_LIBRARY_DIR", str(tmp_path))
    with pytest.raises(LibraryError, match="does not load"):
        OWN.plugins()


@pytest.mark.parametrize(("name", "label", "args", "kwargs"), FEW)
def test_op_checks(name, label, args, kwargs):
    check_op(OPS[name], *args, **kwargs)


@pytest.mark.parametrize(("name", "label", "args", "kwargs"), ALL)
def test_cpu_and_shapes(name, label, args, kwargs):
    check_shapes(OPS[name], *args, **kwargs)
    results = outputs_of(getattr(bridge, name)(*args, **kwargs))
    doubles = OPS[name].run(*cast(args, torch.float64), **with_dtype(OPS[name], kwargs, torch.float64))
    for result, exact in zip(results, outputs_of(doubles), strict=True):
        assert result.dtype == torch.float32 and result.is_contiguous()
        torch.testing.assert_close(result.double(), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", RANDOM)
def test_random_shapes_agree(name):
    for seed in range(100):
        args, kwargs = RANDOM[name](seed)
        check_shapes(OPS[name], *args, **kwargs)


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_reduced_precision_rounds_once(name, dtype):
    args, kwargs = RANDOM[name](3)
    given = cast(args, dtype)
    exact = outputs_of(OPS[name].run(*cast(given, torch.float64), **with_dtype(OPS[name], kwargs, torch.float64)))
    results = outputs_of(OPS[name].overload(*given, **with_dtype(OPS[name], kwargs, dtype)))
    for result, wanted in zip(results, exact, strict=True):
        assert result.dtype == dtype
        torch.testing.assert_close(result.double(), wanted, rtol=2 * torch.finfo(dtype).eps, atol=1e-3)


def strided(value):
    """The same values, not contiguous, on the same device."""
    if not isinstance(value, torch.Tensor) or value.dim() < 2:
        return value
    return value.transpose(0, -1).contiguous().transpose(0, -1)


@pytest.mark.parametrize("name", RANDOM)
def test_non_contiguous_inputs(name):
    args, kwargs = RANDOM[name](5)
    torch.testing.assert_close(OPS[name].overload(*map(strided, args), **kwargs), OPS[name].overload(*args, **kwargs))


@pytest.mark.parametrize("name", RANDOM)
def test_outputs_share_no_memory_with_inputs(name):
    args, kwargs = RANDOM[name](7)
    for output in outputs_of(OPS[name].overload(*args, **kwargs)):
        assert not any(shares_memory(output, a) for a in args if isinstance(a, torch.Tensor))


@pytest.mark.parametrize("name", RANDOM)
def test_meta_tensors(name):
    args, kwargs = RANDOM[name](9)
    meta = OPS[name].overload(*cast(args, device="meta"), **kwargs)
    for output, real in zip(outputs_of(meta), outputs_of(OPS[name].overload(*args, **kwargs)), strict=True):
        assert output.device.type == "meta" and output.shape == real.shape


def _no_return(x: torch.Tensor): ...
def _tensor_after_attribute(x: torch.Tensor, a: int, y: torch.Tensor) -> torch.Tensor: ...
def _odd_type(x: torch.Tensor, a: dict) -> torch.Tensor: ...
def _keyword_only(x: torch.Tensor, *, a: int) -> torch.Tensor: ...
def _other_default(x: torch.Tensor, a: int = 1.5) -> torch.Tensor: ...
def relu(x: torch.Tensor) -> torch.Tensor: ...


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        (_no_return, "returns None, expected Tensor"),
        (_tensor_after_attribute, "tensors come before attributes"),
        (_odd_type, "expected Tensor, Tensor"),
        (_keyword_only, "must be an ordinary parameter"),
        (_other_default, "op sampling::_other_default, parameter a: its default is 1.5, expected int"),
        (relu, r"defined already, in .*test_ops\.py"),
    ],
)
def test_bad_definitions(reference, text):
    with forgotten(), pytest.raises(OpDefinitionError, match=text):
        if reference is relu:
            op("sampling::relu")(reference)
        op(f"sampling::{reference.__name__}")(reference)


def test_an_op_of_ones_own_with_every_kind_of_attribute():
    def every_attribute(
        x: torch.Tensor,
        y: torch.Tensor | None = None,
        i: int = 2,
        f: float = 0.5,
        b: bool = True,
        s: str = "add",
        p: Pair = (1, 2),
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums what it is given."""
        total = x * i + f + p[0] * 10 + p[1]
        return (total + y if y is not None else total), (x if b else -x)

    with forgotten():
        call = op("sampling::every_attribute")(every_attribute)
        x = torch.ones(2)
        first, second = call(x, None, 3, s="sub", p=4)
        assert first.tolist() == [3 + 0.5 + 44] * 2 and second.tolist() == [1, 1]
        assert second.data_ptr() != x.data_ptr(), "an output must not be an input"
        tensors, attributes = OPS["sampling::every_attribute"].bind((x,), {"b": False})
        assert tensors == [x, None] and attributes == {"i": 2, "f": 0.5, "b": False, "s": "add", "p": (1, 2)}
        torch.library.opcheck(
            OPS["sampling::every_attribute"].overload, (torch.randn(2, requires_grad=True), torch.randn(2))
        )
        with pytest.raises(OpInputError, match="missing arguments: x"):
            OPS["sampling::every_attribute"].bind((), {})
        with pytest.raises(OpInputError, match="unknown or given twice"):
            OPS["sampling::every_attribute"].bind((x,), {"x": x})


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "label", "args", "kwargs"), ALL)
def test_cuda_kernel(name, label, args, kwargs, dtype):
    check_cuda(OPS[name], dtype, *args, **kwargs)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name, module in MODULES.items() if hasattr(module, "further")])
def test_cuda_kernels_of_further_samples(name, dtype):
    for _, args, kwargs in MODULES[name].further():
        check_cuda(OPS[name], dtype, *args, **kwargs)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", RANDOM)
def test_cuda_kernel_random_shapes(name, dtype):
    for seed in range(30):
        args, kwargs = RANDOM[name](seed)
        check_cuda(OPS[name], dtype, *args, **kwargs)


@pytest.mark.gpu
@pytest.mark.parametrize("name", RANDOM)
def test_cuda_strided_misaligned_and_on_another_stream(name):
    args, kwargs = RANDOM[name](11)
    expected = OPS[name].overload(*args, **kwargs)

    def misalign(value):
        if not isinstance(value, torch.Tensor):
            return value
        room = torch.empty(value.numel() + 1, dtype=value.dtype, device="cuda")
        return room[1:].view(value.shape).copy_(value)

    for change in (misalign, strided):
        stream = torch.cuda.Stream()
        given = [change(value) for value in cast(args, device="cuda")]
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            actual = OPS[name].overload(*given, **kwargs)
        stream.synchronize()
        for a, b in zip(outputs_of(actual), outputs_of(expected), strict=True):
            torch.testing.assert_close(a.cpu(), b, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("name", RANDOM)
def test_cuda_graph_of_the_op(name):
    args, _, kwargs = PAIRS[name]
    given = cast(args, device="cuda")
    OPS[name].overload(*given, **kwargs)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        actual = OPS[name].overload(*given, **kwargs)
    for output in outputs_of(actual):
        output.fill_(float("nan"))
    graph.replay()
    for a, b in zip(outputs_of(actual), outputs_of(OPS[name].overload(*args, **kwargs)), strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("name", RANDOM)
def test_cuda_gradient(name):
    args, kwargs = RANDOM[name](15)
    if not any(isinstance(a, torch.Tensor) and a.is_floating_point() for a in args):
        pytest.skip("no tensor of it has a gradient")
    grads = {}
    for device in ("cpu", "cuda"):
        given = [value.clone() if isinstance(value, torch.Tensor) else value for value in cast(args, device=device)]
        leaves = [a.requires_grad_() for a in given if isinstance(a, torch.Tensor) and a.is_floating_point()]
        sum(o.square().sum() for o in outputs_of(OPS[name].overload(*given, **kwargs))).backward()
        grads[device] = [None if leaf.grad is None else leaf.grad.cpu() for leaf in leaves]
    assert grads["cpu"][0] is not None
    torch.testing.assert_close(grads["cuda"], grads["cpu"], rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
def test_cuda_devices_must_agree():
    x = torch.randn(1, 1, 1, 4)
    table = torch.randn(1, 2).cuda()
    with pytest.raises((RuntimeError, ValueError), match="rope: cos is not on a CUDA device"):
        bridge.rope(x.cuda(), x.cuda(), table.cpu(), table)
