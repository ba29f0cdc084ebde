"""What every op must pass, for the ops of any library: ``check_library("acme")``, or check by check.

Each check of one call takes an op and its arguments, as ``check_op(bridge.OPS["acme::corr"], *args, **kwargs)`` does;
the tensors' values should be random and their shapes odd. `check_library` takes them from the samples beside the op.
"""

from bridge.testing.arguments import DTYPES, cast, outputs_of, poisoned
from bridge.testing.engine import check_engine
from bridge.testing.export import check_export
from bridge.testing.extents import check_extents, check_open_axes
from bridge.testing.kernels import check_cuda, check_cuda_layouts, check_error
from bridge.testing.library import check_library
from bridge.testing.one_op import check_op
from bridge.testing.reference import (
    check_call,
    check_dispatch,
    check_dtypes,
    check_gradient,
    check_layouts,
    check_memory,
    check_shapes,
)
from bridge.testing.report import LibraryCheckError, LibraryReport, Result
from bridge.testing.samples import Sample, SampleError, samples_of

__all__ = [
    "DTYPES",
    "LibraryCheckError",
    "LibraryReport",
    "Result",
    "Sample",
    "SampleError",
    "cast",
    "check_call",
    "check_cuda",
    "check_cuda_layouts",
    "check_dispatch",
    "check_dtypes",
    "check_engine",
    "check_error",
    "check_export",
    "check_extents",
    "check_gradient",
    "check_layouts",
    "check_library",
    "check_memory",
    "check_op",
    "check_open_axes",
    "check_shapes",
    "outputs_of",
    "poisoned",
    "samples_of",
]
