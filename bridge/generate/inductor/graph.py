"""From a function of tensors to a graph of functional ATen operators, which Inductor can lower."""

import contextlib
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import sympy
import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.fx import GraphModule, Interpreter
from torch.fx import traceback as fx_traceback
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    GuardOnDataDependentSymNode,
    ShapeEnv,
    StrictMinMaxConstraint,
)
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils._sympy.value_ranges import ValueRanges

from bridge.errors import BridgeError, UnsupportedOpError
from bridge.generate.inductor.calls import CallsOfFunction
from bridge.generate.inductor.rewrites import (
    DTYPES,
    check,
    constants_of,
    extent_of,
    is_in_place,
    move_to_gpu,
    names,
    separate_outputs,
    squeezed,
    write_out,
)
from bridge.generate.inductor.scans import functions_of, traced_scans
from bridge.generate.program import Extent, Symbol, TensorType
from bridge.graph import control_flow
from bridge.graph.model_source import is_model_code

Input: TypeAlias = TensorType | Extent | None
"""A tensor, a number, or an absent tensor."""


@dataclass(frozen=True)
class TracedGraph:
    """A graph on a GPU, and what it was traced with.

    conditions: under which it is right, beside the guards of `env`. symbols: those of `env`, each with the caller's.
    examples: the number of each.
    """

    module: GraphModule
    inputs: tuple[Any, ...]
    outputs: tuple[torch.Tensor, ...]
    env: ShapeEnv
    mode: FakeTensorMode
    conditions: tuple[sympy.Basic, ...]
    symbols: Mapping[sympy.Symbol, sympy.Symbol]
    examples: Mapping[sympy.Symbol, sympy.Integer]

    def at_examples(self, extents: Sequence[Any]) -> tuple[int, ...]:
        """The numbers that extents of the graph are at the examples."""
        return tuple(int(extent_of(extent).xreplace(self.examples)) for extent in extents)


def traced_graph(
    function: Callable[..., Any],
    inputs: Sequence[Input],
    symbols: Sequence[Symbol],
    decompositions: Mapping[Any, Callable[..., Any]],
    any_dtype: bool = False,
) -> TracedGraph:
    """Traces a function at the symbols' example extents, within `stand_in_gpu`.

    The graph's outputs are contiguous, and each has memory of its own. UnsupportedOpError: something has no kernel.
    """
    env = ShapeEnv(
        specialize_zero_one=False, duck_shape=False, allow_scalar_outputs=False, allow_dynamic_output_shape_ops=False
    )
    mode = FakeTensorMode(shape_env=env, allow_non_fake_inputs=True, allow_fallback_kernels=False)
    own = {symbol.symbol: _own_symbol(env, symbol) for symbol in symbols}
    examples = {symbol.symbol: sympy.Integer(symbol.example) for symbol in symbols}
    if not any_dtype:
        _check_dtypes(inputs)
    with mode:
        fakes = [_fake(env, one, own, examples) for one in inputs]
        module = _traced(function, fakes, decompositions)
    functions = functions_of(module)
    for each in (module, *functions.values()):
        for node in each.graph.nodes:
            check(node)
    constants = constants_of(module, functions)
    conditions = tuple(sympy.Ne(extent, 1) for extent in squeezed(module))
    with mode:
        write_out(module, constants)
        outputs = separate_outputs(module, any_dtype)
        for each in (module, *functions.values()):
            move_to_gpu(each)
    given = zip(module.graph.find_nodes(op="placeholder"), (fake for fake in fakes if fake is not None), strict=True)
    # Of tensors those on the GPU; a number without a symbol has no value in the graph.
    placed = [node.meta.get("val", fake) for node, fake in given]
    callers = {mine: theirs for theirs, mine in own.items() if mine.is_Symbol}
    known = {mine: examples[theirs] for mine, theirs in callers.items()}
    return TracedGraph(module, tuple(placed), outputs, env, mode, conditions, callers, known)


def _check_dtypes(inputs: Sequence[Input]) -> None:
    for one in inputs:
        if isinstance(one, TensorType) and one.dtype not in DTYPES:
            raise UnsupportedOpError(f"an input is {one.dtype}; plugins take {names(DTYPES)}")


def _own_symbol(env: ShapeEnv, symbol: Symbol) -> sympy.Expr:
    """A symbol of `env` for the caller's; a number where its range has but one."""
    bounds = StrictMinMaxConstraint(vr=ValueRanges(symbol.low, symbol.high), warn_only=False)
    source = ConstantSource(str(symbol.symbol))
    return env.create_symbol(symbol.example, source, DimDynamic.DYNAMIC, bounds, positive=symbol.low > 0 or None)


def _fake(env: ShapeEnv, described: Input, own: Mapping[Any, Any], examples: Mapping[Any, Any]) -> Any:
    """On the CPU: torch's bindings ask a GPU's driver for some methods of a tensor on it, such as item().

    The function is told that it is on a GPU, see calls.py.
    """

    def extent(one: Extent) -> Any:
        expression = sympy.sympify(one).xreplace(own)
        if expression.is_number:
            return int(expression)
        return env.create_symintnode(expression, hint=int(sympy.sympify(one).xreplace(examples)))

    if described is None:
        return None
    if not isinstance(described, TensorType):
        return extent(described)
    return torch.empty([extent(one) for one in described.shape], dtype=described.dtype, device="cpu")


def _traced(
    function: Callable[..., Any], fakes: Sequence[Any], decompositions: Mapping[Any, Callable[..., Any]]
) -> GraphModule:
    callee = Interpreter(function).run if isinstance(function, GraphModule) else function

    def flat(*arguments: Any) -> list[Any]:
        rest = iter(arguments)
        with CallsOfFunction():
            result = callee(*(None if fake is None else next(rest) for fake in fakes))
        return list(pytree.tree_leaves(result))

    given = [fake for fake in fakes if fake is not None]
    with (
        enable_python_dispatcher(),
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        fx_traceback.preserve_node_meta(),
        traced_scans(),
        _named_errors(),
    ):
        module = make_fx(torch.func.functionalize(flat, remove="mutations"), decompositions)(*given)
        if any(is_in_place(node) for node in module.graph.nodes):  # within an operator that is decomposed
            again = torch.func.functionalize(Interpreter(module).run, remove="mutations")
            module = make_fx(again, decompositions)(*given)
        return module


class FailedCallError(UnsupportedOpError):
    """The function itself failed, as it would on real tensors of the examples' extents."""


@contextlib.contextmanager
def _named_errors() -> Iterator[None]:
    """Around a trace. UnsupportedOpError: it failed; the message has the line of the function."""
    try:
        yield
    except BridgeError:
        raise
    except Exception as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_model_code(frame.filename)]
        where = f" ({frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name})" if frames else ""
        if reason := control_flow.refusal_of_failure(error):
            raise FailedCallError(f"{reason}{where}") from error
        known = next((text for kind, text in _REASONS.items() if isinstance(error, kind)), None)
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        reason = f"{first}: {known}" if known else f"no kernel can be made: {first}"
        # torch may not know an answer about extents that it would have if it asked.
        unknown = isinstance(error, GuardOnDataDependentSymNode)
        kind = UnsupportedOpError if unknown else FailedCallError
        raise kind(f"{reason}{where}") from error


# Their texts are the operator's name.
_REASONS: dict[type[Exception], str] = {
    DataDependentOutputException: "the function needs a value on the host, which a plugin does not have",
    DynamicOutputShapeException: "the shape of its result depends on values",
    UnsupportedOperatorException: "torch knows no rule for the shape of its result",
}
