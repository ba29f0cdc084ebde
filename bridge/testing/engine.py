"""The check of an op in an engine of its own."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import bridge
from bridge.core.device_code import device_codes
from bridge.core.op import OPS, Op
from bridge.engine_file import dtypes
from bridge.generate.generated_op import GeneratedOp
from bridge.graph.one_call import OneCall
from bridge.testing.arguments import cast, outputs_of
from bridge.testing.extents import Extents
from bridge.testing.kernels import compare

WITHOUT_GPU = "sm86"


def check_engine(
    op: Op,
    *args: Any,
    dynamic_shapes: Sequence[Any] | None = None,
    target: str | None = None,
    further: Sequence[Sequence[Any]] = (),
    **kwargs: Any,
) -> None:
    """bridge.compile of a model of one call: one plugin layer of the op, outputs of the dtypes and shapes of a trace.

    On a GPU that the engine is built for, its results are compared with those of the reference in float64, as
    `check_cuda` compares the kernel's. Elsewhere it is built and not run.

    Args:
        args, kwargs: of the call; kwargs are attributes.
        dynamic_shapes: torch.export's, one entry a tensor, each dynamic dimension with a max; None: none is dynamic.
        target: the GPU to build for, such as "sm86"; None: this machine's, else sm86 where the op's library has code
            for it, else the first that it has code for.
        further: arguments of further calls, of other shapes within `dynamic_shapes`.
    Raises:
        AssertionError: layers, dtypes, shapes or values differ.
        BridgeError: bridge.compile's own.
    """
    compiled = build(op, args, kwargs, dynamic_shapes, target)
    if runs_here(compiled.file.target):
        check_values(op, compiled, (args, *further), kwargs)


def build(
    op: Op, args: Sequence[Any], kwargs: dict[str, Any], dynamic_shapes: Sequence[Any] | None, target: str | None
) -> "bridge.CompiledModule":
    """The engine of a model of one call, with its layers and outputs checked; see `check_engine`."""
    tensors, attributes = op.bind(args, kwargs)
    model = OneCall(op.overload, attributes).eval()
    absent = [None] * (len(tensors) - len(dynamic_shapes or ()))
    compiled = bridge.compile(
        model,
        tuple(tensors),
        dynamic_shapes=None if dynamic_shapes is None else ((*dynamic_shapes, *absent),),
        target=target or default_target(op),
        lowering="plugin",
        cache=False,
        progress=False,
    )
    counts = dict(compiled.plugin_counts())
    assert list(counts.values()) == [1] and _computes(next(iter(counts)), op), (
        f"the engine has plugin layers {counts}, expected one of {op.name}"
    )
    expected = outputs_of(model(*cast(tensors, device="cpu")))
    _check_outputs(compiled, expected, dynamic=dynamic_shapes is not None or bool(op.counted))
    return compiled


def _computes(plugin: str, op: Op) -> bool:
    """Whether a plugin is that of an op, or one that was generated from it."""
    other = OPS.get(plugin)
    return plugin == op.name or (isinstance(other, GeneratedOp) and other.operator == op.qualified_name)


def check_values(
    op: Op, compiled: "bridge.CompiledModule", calls: Sequence[Sequence[Any]], kwargs: dict[str, Any]
) -> None:
    """The results of an engine on this machine's GPU; see `check_engine`."""
    for args in calls:
        tensors, attributes = op.bind(cast(args, device="cpu"), kwargs)
        actual = outputs_of(compiled(*cast(tensors, device="cuda")))
        compare(op, " of the engine", tensors, attributes, actual)


def open_shapes(extents: Extents) -> tuple[list[Any], list[list[Any]]]:
    """Dynamic shapes of a call, and further calls within them where values do not matter.

    An extent is dynamic, from 2 to an odd number, where it is 2 or more and the reference leaves it open in that range,
    whatever the other extents are.
    """
    most = {symbol: 2 * value + 1 for symbol, value in extents.values.items() if value > 1}
    tried = {symbol: (2, extents.values[symbol] + 1, most[symbol]) for symbol in most}
    most = {symbol: most[symbol] for symbol in most if all(extents.takes_alone(symbol, v) for v in tried[symbol])}
    dims = {symbol: torch.export.Dim(f"extent_{i}", min=2, max=most[symbol]) for i, symbol in enumerate(most)}
    shapes: list[Any] = [None if tensor is None else {} for tensor in extents.tensors]
    for (index, axis), expression in extents.axes.items():
        if expression in dims:
            shapes[index][axis] = dims[expression]
    others = [extents.at(most), extents.at(dict.fromkeys(most, 2))]
    calls = [extents.tensors_at(each) for each in others if each is not None and extents.takes(each)]
    return shapes, [each for each in calls if each is not None]


def default_target(op: Op) -> str:
    """What an engine of an op is built for: this machine's GPU, or one that its library has code for."""
    if torch.cuda.is_available():
        return "sm{}{}".format(*torch.cuda.get_device_capability())
    path = op.library.find("plugins")
    codes = device_codes(path) if path else ()
    if not codes or any(code.runs_on(int(WITHOUT_GPU[2:])) for code in codes):
        return WITHOUT_GPU
    return f"sm{codes[0].capability}"


def runs_here(target: str) -> bool:
    """Whether this machine's GPU is the one that an engine was built for."""
    return torch.cuda.is_available() and target == "sm{}{}".format(*torch.cuda.get_device_capability())


def _check_outputs(compiled: "bridge.CompiledModule", expected: Sequence[Tensor], dynamic: bool) -> None:
    actual = compiled.outputs
    assert len(actual) == len(expected), f"the engine has {len(actual)} outputs, expected {len(expected)}"
    for index, (spec, output) in enumerate(zip(actual, expected, strict=True)):
        dtype = dtypes.named(spec.dtype).torch
        assert dtype == output.dtype, f"output {index} of the engine is {dtype}, of the reference {output.dtype}"
        extents = zip(spec.shape, output.shape, strict=False)
        same = all(extent in (wanted, -1 if dynamic else wanted) for extent, wanted in extents)
        assert len(spec.shape) == output.dim() and same, (
            f"output {index} of the engine is {list(spec.shape)}, of the reference {list(output.shape)}"
        )
