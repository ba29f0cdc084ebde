"""Caches what torch repeats at each export: a third of the time of a test that exports a small model.

Results do not change. Only the tests use it: a program exports a few times, the tests thousands of times.
"""

import functools

import torch
from torch._C import DispatchKey
from torch._export import utils
from torch._ops import OperatorBase


def install() -> None:
    """Replaces two steps of torch for the rest of the process."""
    if hasattr(utils, "_materialize_cpp_cia_ops"):
        utils._materialize_cpp_cia_ops = _once_a_library(utils._materialize_cpp_cia_ops)
    OperatorBase.py_impl = _registering_at_once(OperatorBase.py_impl)


def _once_a_library(materialize):
    """Materialises composite operators once; torch does it for each namespace at each decomposition."""

    @functools.cache
    def of(namespaces, libraries):
        materialize()

    return lambda: of(len(torch.ops._dir), len(torch.ops.loaded_libraries))


def _registering_at_once(py_impl):
    """Registers kernels of dispatch keys, 13,000 per decomposition, without creating types for annotations."""

    def quick(self, key):
        if type(key) is not DispatchKey or key == DispatchKey.Python:
            return py_impl(self, key)

        def register(function):
            if key in self.py_kernels:
                return py_impl(self, key)(function)  # raises
            self.py_kernels[key] = function
            self._dispatch_cache.clear()
            return function

        return register

    return quick
