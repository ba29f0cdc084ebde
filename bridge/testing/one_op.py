"""The checks of one call in one: for an op with a kernel, and for one without."""

from typing import Any

from bridge.core.op import Op
from bridge.doors.generation import lacks_kernel
from bridge.testing.checks import OF_A_CALL, WITHOUT_KERNEL, Case, Skipped
from bridge.testing.report import PASSED, SKIPPED, LibraryReport, Result


def check_op(op: Op, *args: Any, **kwargs: Any) -> LibraryReport:
    """Schema, dispatch, tracing, memory, shapes and gradient of one call on CPU.

    An op without a kernel has no shape rule to compare. Its dtypes, its export, and an engine with the plugin that
    bridge generates are checked instead; on a GPU that the engine is for, its values, too.

    Args:
        args, kwargs: of the call; the tensors' values should be random and their shapes odd.
    Returns:
        What was checked; `skipped` has what could not be, each with its reason.
    Raises:
        AssertionError, OpCheckError: something differs, which the message names; the latter is torch's own.
        LibraryError: the library of plugins, whose shape rule is compared, is broken or missing.
        Exception: whatever the reference, torch.export or bridge.compile raises.
    """
    report = LibraryReport(op.library.namespace, op.library.origin)
    case = Case(op, list(args), dict(kwargs))
    for check in WITHOUT_KERNEL if lacks_kernel(op) else OF_A_CALL:
        try:
            check.run(case)
            report.results.append(Result(op.name, "", check.name, PASSED))
        except Skipped as reason:
            report.results.append(Result(op.name, "", check.name, SKIPPED, str(reason)))
    return report
