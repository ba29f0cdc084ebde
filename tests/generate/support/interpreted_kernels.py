"""Traces operators with Triton kernels in a process that interprets them, for `region_interpreter.run_instance`.

There kernels are InterpretedFunctions. While operators are traced, these have what is read of a JITFunction, and stand
for that class.
"""

import inspect
from contextlib import contextmanager
from unittest.mock import patch

import triton.runtime.jit
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import KernelParam


@contextmanager
def traceable():
    """The context to trace in. The process had TRITON_INTERPRET=1 in its environment when Triton was imported."""
    with (
        patch.object(InterpretedFunction, "params", property(_params), create=True),
        patch.object(triton.runtime.jit, "JITFunction", InterpretedFunction),
    ):
        yield


def _params(self):
    parameters = inspect.signature(self.fn).parameters.values()
    return [
        KernelParam(
            number,
            parameter,
            _is_among(self.kwargs.get("do_not_specialize"), number, parameter),
            _is_among(self.kwargs.get("do_not_specialize_on_alignment"), number, parameter),
        )
        for number, parameter in enumerate(parameters)
    ]


def _is_among(listed, number, parameter):
    return number in (listed or ()) or parameter.name in (listed or ())
