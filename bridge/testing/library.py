"""Every check of every op of a library, in one call."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bridge.base.text import listing
from bridge.core import libraries
from bridge.core.library import Library, check_schemas
from bridge.core.op import Op
from bridge.errors import UnknownNameError
from bridge.testing.checks import CHECKS, Case, Check, Skipped
from bridge.testing.report import FAILED, PASSED, SKIPPED, LibraryCheckError, LibraryReport, Result
from bridge.testing.samples import Sample, sample_module, samples_of


def check_library(
    library: str | Library,
    ops: Sequence[str] = (),
    *,
    samples: str | Path | None = None,
    few: int = 3,
    target: str | None = None,
    progress: Callable[[Result], None] | None = None,
) -> LibraryReport:
    """Runs every check of `bridge.testing` for every op of a library, on the op's samples.

    Of each op: its schema in both languages, and that it has samples. Of each sample: the call, its memory, its dtypes,
    inputs that are strided or not aligned, both shape rules; on a GPU the kernel in every dtype, against the reference
    in float64. Of a few samples also: opcheck, derivatives, other extents, export, an engine. What cannot be checked
    here is in the report, with the reason.

    Args:
        library: or its namespace; an installed package that is not imported yet is imported.
        ops: names of its ops, with or without the namespace; none: all.
        samples: where the samples are, see `samples_of`; None: beside the ops.
        few: how many samples of an op the slow checks take, the empty ones left out.
        target: the GPU that engines are built for, see `check_engine`.
        progress: gets each result as it comes.
    Returns:
        The report; print it.
    Raises:
        LibraryCheckError: a check failed; its message is the report, which it has as `report`.
        LibraryError: there is no such library.
        UnknownNameError: the library has no op of a name.
    """
    library = libraries.library(library) if isinstance(library, str) else library
    report = LibraryReport(library.namespace, library.origin)
    for name in op_names(library, ops):
        for result in _results(library.ops[name], samples, few, target):
            report.results.append(result)
            if progress is not None:
                progress(result)
    if not ops and (extra := _plugins_without_op(library)):
        report.results.append(extra)
    if report.failed:
        raise LibraryCheckError(report)
    return report


def op_names(library: Library, names: Sequence[str] = ()) -> list[str]:
    """The ops of a library, without their namespace; of them those named.

    UnknownNameError: it has no op of a name.
    """
    wanted = [name.removeprefix(f"{library.namespace}::") for name in names]
    for name in wanted:
        if name not in library.ops:
            known = listing(sorted(library.ops), name)
            raise UnknownNameError(f"no op of {library.namespace} is called {name!r}; there are {known}")
    return wanted or sorted(library.ops)


def _results(op: Op, source: str | Path | None, few: int, target: str | None) -> Iterator[Result]:
    yield _result(op, "", "schemas", lambda: _check_schema(op))
    calls: list[Sample] = []
    yield _result(op, "", "samples", lambda: calls.extend(samples_of(op, source)))
    if not calls:
        return
    module = sample_module(op, source)
    chosen = _few(calls, few)
    for index, (label, args, kwargs) in enumerate(calls):
        case = Case(op, args, kwargs, module, target)
        checks = [check for check in CHECKS if index in chosen or not check.slow]
        yield from _of_sample(case, label or f"number {index}", checks)


def _of_sample(case: Case, label: str, checks: Sequence[Check]) -> Iterator[Result]:
    """The results of a sample; where the first check, the call itself, fails, there are no others."""
    for index, check in enumerate(checks):
        result = _result(case.op, label, check.name, lambda check=check: check.run(case))  # type: ignore[misc]
        yield result
        if index == 0 and result.outcome == FAILED:
            yield Result(case.op.name, label, "all others", SKIPPED, f"the call of sample {label!r} fails")
            return


def _result(op: Op, label: str, check: str, run: Callable[[], Any]) -> Result:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of how it is asked
            run()
    except Skipped as reason:
        return Result(op.name, label, check, SKIPPED, str(reason))
    except Exception as error:  # of any kind: it is what the report is about
        kind = "" if type(error) is AssertionError else f"{type(error).__name__}: "
        return Result(op.name, label, check, FAILED, f"{kind}{error}" or repr(error))
    return Result(op.name, label, check, PASSED)


def _check_schema(op: Op) -> None:
    """Skipped: there is no kernel. LibraryError: what is wrong with it."""
    library = op.library
    if problem := library.problem_of(op.local_name):
        raise AssertionError(problem)
    if library.find("plugins") is None:
        raise Skipped(f"no kernel: {library.missing_text('plugins')}")
    schemas = library.plugins().schemas
    check_schemas({op.local_name: op}, {name: text for name, text in schemas.items() if name == op.local_name})


def _plugins_without_op(library: Library) -> Result | None:
    if library.find("plugins") is None or "" in library.problems:
        return None
    extra = ", ".join(sorted(library.plugins().schemas.keys() - library.ops.keys()))
    reason = f"{library.plugin_library()} has plugins without an op in Python: {extra}"
    return Result(library.namespace, "", "plugins", FAILED, reason) if extra else None


def _few(samples: Sequence[Sample], count: int) -> set[int]:
    """Indices of that many samples, evenly spread over those without empty tensors."""
    full = [
        index
        for index, (_, args, _) in enumerate(samples)
        if all(value.numel() for value in args if hasattr(value, "numel"))
    ]
    indices = full or list(range(len(samples)))
    count = min(count, len(indices))
    return {indices[round(i * (len(indices) - 1) / max(count - 1, 1))] for i in range(count)}
