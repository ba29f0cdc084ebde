"""Compiles the cases of an operator and says of each whether its result is PyTorch's.

Many cases are one model, because most of a compile's time is spent on any model; where the whole fails, its halves are
tried.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from unittest import mock

import torch
from layer_interpreter import Undefined
from opinfo_pruning import leaving_out, named_cases
from opinfo_rounding import tf32_errors
from opinfo_samples import LASTS, MARKS, Case, dimensions, grown
from oracle import assert_same, interpreted
from torch import Tensor
from torch.utils import _pytree as pytree

import bridge
from bridge.errors import BridgeError, BuildError
from bridge.tensorrt.network import build

RIGHT, WRONG, REFUSED, RAW, UNBUILT, LACKS = "right", "wrong", "refused", "raw error", "not built", "not evaluated"
OUTCOMES = (RIGHT, WRONG, REFUSED, RAW, UNBUILT, LACKS)
_AT_ONCE = 40
_TOLERANCES = {torch.float32: (1e-3, 1e-4), torch.float16: (2e-2, 2e-2), torch.bfloat16: (5e-2, 5e-2)}
_NEVER = "it has no converter"
# Of extents that vary, beside the example: one of each pair is odd. At most four times as large.
_GROWTHS = (None, lambda extent: extent + 1, lambda extent: 2 * extent, lambda extent: 2 * extent + 1)


@dataclass(frozen=True)
class Verdict:
    """What became of a case, and why. The outcomes:

    right: values, shapes and dtypes are PyTorch's, at the example's extents and, where they vary, at others.
    refused: an error of bridge's own. raw error: another exception. not built: TensorRT's builder refuses the network.
    not evaluated: it has a layer that the tests' interpreter lacks.
    """

    operator: str
    case: str
    outcome: str
    detail: str = ""

    def row(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True)
class Judge:
    """engines: engines are built for this machine's GPU and run there; else networks are evaluated on the CPU, and
    built for `target` where `builds` says so. marks: which extents vary (MARKS), the next where one is refused."""

    engines: bool = False
    builds: bool = True
    target: str | None = "sm86"
    marks: tuple[str, ...] = MARKS

    def judge(self, cases: Sequence[Case]) -> Iterator[Verdict]:
        with self._running():
            for marks in (None, *self.marks):
                chosen = [case for case in cases if case.dynamic == (marks is not None)]
                refused: list[Case] = []
                for start in range(0, len(chosen), _AT_ONCE):
                    for case, verdict in self._together(chosen[start : start + _AT_ONCE], marks):
                        again = verdict.outcome == REFUSED and marks not in (None, self.marks[-1])
                        if again and _NEVER not in verdict.detail:  # may be for what else was marked
                            refused.append(case)
                        else:
                            yield verdict
                if marks is not None:
                    cases = refused

    def _together(self, cases: Sequence[Case], marks: str | None) -> list[tuple[Case, Verdict]]:
        """A verdict on each. Cases that an error names are taken out; where it names none, the halves are tried."""
        if not cases:
            return []
        try:
            with leaving_out() as refused:
                compiled, dims = self._compile(cases, marks)
            outcomes = self._compare(compiled, cases, dims, refused)
            return [(case, _verdict(case, *outcome)) for case, outcome in zip(cases, outcomes, strict=True)]
        except Exception as error:  # told apart below, and kept
            detail = f"{type(error).__name__}: {error}"
            if len(cases) == 1:
                return [(cases[0], _verdict(cases[0], _outcome_of(error), detail))]
            named = named_cases(detail)
            if not named:
                half = len(cases) // 2
                return self._together(cases[:half], marks) + self._together(cases[half:], marks)
            taken = [case for place, case in enumerate(cases) if place in named]
            others = [case for place, case in enumerate(cases) if place not in named]
            if _outcome_of(error) == REFUSED:
                verdicts = [(case, _verdict(case, REFUSED, detail)) for case in taken]
            else:
                verdicts = [pair for case in taken for pair in self._together([case], marks)]
            return verdicts + self._together(others, marks)

    def _compile(self, cases: Sequence[Case], marks: str | None) -> tuple[Any, list[list[dict[int, str]]]]:
        dims = [dimensions(case, marks) if marks else [{} for _ in case.inputs] for case in cases]
        known: dict[str, Any] = {}
        shapes = []
        for place, (case, of_inputs) in enumerate(zip(cases, dims, strict=True)):
            for tensor, axes in zip(case.inputs, of_inputs, strict=True):
                for axis, name in axes.items():
                    extent = tensor.shape[axis]
                    least = extent if marks == LASTS else 2  # windows of the samples fit into no smaller maps
                    known.setdefault(f"{name}_{place}", torch.export.Dim(f"{name}_{place}", min=least, max=4 * extent))
                shapes.append({axis: known[f"{name}_{place}"] for axis, name in axes.items()})
        model, inputs = _Together(cases).eval(), [tensor for case in cases for tensor in case.inputs]
        if self.engines:
            model, inputs = model.cuda(), [tensor.cuda() for tensor in inputs]
        settings = {"target": None if self.engines else self.target, "cache": False, "tf32": False}
        dynamic_shapes = {"tensors": tuple(shapes)} if known else None
        try:
            return bridge.compile(model, tuple(inputs), dynamic_shapes=dynamic_shapes, **settings), dims
        except AssertionError as error:  # no verdict of ours
            raise RuntimeError(f"AssertionError: {error}") from error

    def _compare(
        self,
        compiled: Any,
        cases: Sequence[Case],
        dims: Sequence[Sequence[dict[int, str]]],
        refused: Mapping[int, str],
    ) -> list[tuple[str, str]]:
        outcomes = [(REFUSED, refused[place]) if place in refused else (RIGHT, "") for place in range(len(cases))]
        for grow in _GROWTHS if cases[0].dynamic else (None,):
            given = [
                (grown(case, axes, grow) if grow else None) or case.inputs
                for case, axes in zip(cases, dims, strict=True)
            ]
            with torch.no_grad():
                expected = [
                    _on_cpu(case.model.cpu()(*(tensor.clone() for tensor in tensors)))  # samples may name a device
                    for case, tensors in zip(cases, given, strict=True)
                ]
            found = self._call(compiled, [tensor.clone() for tensors in given for tensor in tensors])
            for place, (case, mine, theirs) in enumerate(zip(cases, found, expected, strict=True)):
                if outcomes[place][0] == RIGHT and (difference := self._difference(case, given[place], mine, theirs)):
                    extents = [tuple(tensor.shape) for tensor in given[place]]
                    outcomes[place] = WRONG, f"{difference} of inputs {extents}"
        return outcomes

    def _difference(self, case: Case, inputs: Sequence[Tensor], found: Any, expected: Any) -> str:
        """How a result differs from PyTorch's."""
        errors = tf32_errors(case.model, inputs, expected) if self.engines else None
        try:
            mine, theirs = pytree.tree_flatten(found), pytree.tree_flatten(expected)
            assert mine[1] == theirs[1], f"{mine[1]}, expected {theirs[1]}"
            for place, pair in enumerate(zip(mine[0], theirs[0], strict=True)):
                rtol, atol = _TOLERANCES.get(getattr(pair[1], "dtype", None), (0.0, 0.0))
                mine_then, theirs_then = (case.promised(inputs, place, leaf) for leaf in pair)
                assert_same(mine_then, theirs_then, rtol=rtol, atol=atol + (errors[place] if errors else 0.0))
        except AssertionError as error:
            return str(error)
        return ""

    def _call(self, compiled: Any, inputs: list[Tensor]) -> Any:
        if not self.engines:
            return compiled(*inputs)
        results = compiled(*(tensor.cuda() for tensor in inputs))
        torch.cuda.synchronize()
        return _on_cpu(results)

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        if self.engines:
            yield
            return
        really = build.build_engine
        with interpreted():
            evaluated = build.build_engine

            def both(*args: Any) -> bytes:
                really(*args)
                return evaluated(*args)

            with mock.patch.object(build, "build_engine", both) if self.builds else contextlib.nullcontext():
                yield


class _Together(torch.nn.Module):
    """All cases, one after the other; takes the tensors of all."""

    def __init__(self, cases: Sequence[Case]) -> None:
        super().__init__()
        self.calls = torch.nn.ModuleList(case.model for case in cases)
        self._counts = [len(case.inputs) for case in cases]

    def forward(self, *tensors: Tensor) -> Any:
        given = iter(tensors)
        return tuple(
            call(*(next(given) for _ in range(count))) for call, count in zip(self.calls, self._counts, strict=True)
        )


def _on_cpu(results: Any) -> Any:
    return pytree.tree_map(lambda leaf: leaf.cpu() if isinstance(leaf, Tensor) else leaf, results)


def _verdict(case: Case, outcome: str, detail: str = "") -> Verdict:
    return Verdict(case.operator, case.name, outcome, detail[:2000])


def _outcome_of(error: Exception) -> str:
    unbuilt = isinstance(error, BuildError) and "could not build the engine" in str(error)
    if unbuilt and "An engine has nothing to do" not in str(error):  # of which no engine is made
        return UNBUILT
    if isinstance(error, BridgeError):
        return REFUSED
    if isinstance(error, NotImplementedError) and "the interpreter has no" in str(error):
        return LACKS
    return WRONG if isinstance(error, (Undefined, AssertionError)) else RAW
