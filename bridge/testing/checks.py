"""The checks that `check_library` runs on a sample: a table, read from top to bottom."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch

from bridge.core.op import Op
from bridge.errors import FlavourError, TargetError, UnsupportedOpError
from bridge.tensorrt.install.flavour import detect
from bridge.tensorrt.plugins import shape_rules
from bridge.testing import engine, export, extents, kernels, reference
from bridge.testing.arguments import outputs_of
from bridge.testing.extents import extents_of


class Skipped(Exception):
    """A check cannot be made here, or not of this op; the message says why."""


@dataclass
class Case:
    """One call of an op. module: of its samples, or None. target: the GPU that engines are built for, or None.

    engine: that of the call, once the check before has built it; further: other calls that it takes.
    """

    op: Op
    args: list[Any]
    kwargs: dict[str, Any]
    module: ModuleType | None = None
    target: str | None = None
    engine: Any = None
    further: Sequence[Sequence[Any]] = ()


@dataclass(frozen=True)
class Check:
    """slow: it is run on a few samples alone."""

    name: str
    run: Callable[[Case], None]
    slow: bool = False


def _plainly(check: Callable[..., None]) -> Callable[[Case], None]:
    """A check of `bridge.testing` that takes an op and the arguments of a call."""
    return lambda case: check(case.op, *case.args, **case.kwargs)


def _shapes(case: Case) -> None:
    _need_kernel(case.op)
    _need_fixed_shapes(case.op)
    reference.check_shapes(case.op, *case.args, **case.kwargs)


def _gradient(case: Case) -> None:
    outputs = outputs_of(case.op.overload(*case.args, **case.kwargs))
    if not any(output.is_floating_point() for output in outputs):
        raise Skipped("its outputs are integers, which have no gradient")
    reference.check_gradient(case.op, *case.args, **case.kwargs)


def _open_axes(case: Case) -> None:
    tensors, _ = case.op.bind(case.args, case.kwargs)
    make = getattr(case.module, "open_axes", None)
    extents.check_open_axes(case.op, *case.args, open_axes=make(tensors) if make else None, **case.kwargs)


def _export(case: Case) -> None:
    _need_fixed_shapes(case.op)
    export.check_export_of(case.op, *case.args, **case.kwargs)


def _engine(case: Case) -> None:
    _need_kernel(case.op)
    _build_engine(case)


def _generated_engine(case: Case) -> None:
    if find_spec("triton") is None:
        raise Skipped("it has no kernel, and Triton, which would make one, is not installed")
    try:
        _build_engine(case)
    except UnsupportedOpError as error:
        raise Skipped(f"it has no kernel, and none can be generated: {error}") from error


def _build_engine(case: Case) -> None:
    target = case.target or engine.default_target(case.op)
    try:
        detect()
        shapes, case.further = engine.open_shapes(extents_of(case.op, case.args, case.kwargs))
        case.engine = engine.build(case.op, case.args, case.kwargs, shapes, target)
    except (FlavourError, TargetError) as error:
        raise Skipped(f"no engine for {target} here: {error}") from error


def _engine_values(case: Case) -> None:
    if case.engine is None:
        raise Skipped("there is no engine, see engine")
    if not engine.runs_here(case.engine.file.target):
        raise Skipped(f"needs a CUDA GPU, {case.engine.file.target}")
    engine.check_values(case.op, case.engine, (case.args, *case.further), case.kwargs)


def _kernel(case: Case) -> None:
    _need_cuda_kernel(case.op)
    _, attributes = case.op.bind(case.args, case.kwargs)
    for tensors in reference.dtype_variants(case.op, case.args, case.kwargs):
        kernels.check_cuda_call(case.op, tensors, attributes)


def _kernel_layouts(case: Case) -> None:
    _need_cuda_kernel(case.op)
    for dtype in reference.first_dtypes(case.op, case.args, case.kwargs):
        kernels.check_cuda_layouts(case.op, dtype, *case.args, **case.kwargs)


CHECKS = (
    Check("call", _plainly(reference.check_call)),
    Check("memory", _plainly(reference.check_memory)),
    Check("dtypes", _plainly(reference.check_dtypes)),
    Check("layouts", _plainly(reference.check_layouts)),
    Check("shapes", _shapes),
    Check("opcheck", _plainly(reference.check_dispatch), slow=True),
    Check("gradient", _gradient, slow=True),
    Check("extents", _plainly(extents.check_extents), slow=True),
    Check("open axes", _open_axes, slow=True),
    Check("export", _export, slow=True),
    Check("engine", _engine, slow=True),
    Check("engine values", _engine_values, slow=True),
    Check("kernel", _kernel),
    Check("kernel layouts", _kernel_layouts),
)


_BY_NAME = {check.name: check for check in CHECKS}
OF_A_CALL = (
    Check("shapes", _plainly(reference.check_shapes)),  # not skipped: an op with a kernel has its library
    *(_BY_NAME[name] for name in ("memory", "opcheck", "gradient")),
)
"""Those of `check_op`, for an op with a kernel."""
WITHOUT_KERNEL = (
    *(_BY_NAME[name] for name in ("call", "memory", "dtypes", "opcheck", "gradient", "export")),
    Check("engine", _generated_engine),
    *(_BY_NAME[name] for name in ("engine values", "shapes", "kernel")),
)
"""The same for an op without one: the last two say that they cannot be made."""


def _need_kernel(op: Op) -> None:
    if op.library.problem_of(op.local_name):
        raise Skipped("its native library cannot be used, see schemas")
    if not op.library.has_plugin(op.local_name):
        raise Skipped(f"no kernel: {shape_rules.refusal(op)}")


def _need_fixed_shapes(op: Op) -> None:
    if op.counted:
        raise Skipped("the shapes of its outputs depend on values")


def _need_gpu() -> None:
    if not torch.cuda.is_available():
        raise Skipped("needs a CUDA GPU")


def _need_cuda_kernel(op: Op) -> None:
    _need_kernel(op)
    _need_gpu()
    if not op.has_cuda_kernel:
        raise Skipped(f"no CUDA kernel for PyTorch: {op.library.missing_text('torch')}")
