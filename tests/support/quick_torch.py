"""Caches what torch repeats at each export: a third of the time of a test that exports a small model.

Results do not change. Only the tests use it: a program exports a few times, the tests thousands of times.
"""

import contextlib
import functools

import torch
from torch._C import DispatchKey
from torch._decomp.decompositions_for_rng import PhiloxState
from torch._dynamo import guards
from torch._export import utils
from torch._ops import OperatorBase, OpOverload
from torch._subclasses.fake_impls import op_implementations_dict
from torch.export import exported_program
from torch.fx.experimental import recording
from torch.fx.experimental.symbolic_shapes import ShapeEnv


def install() -> None:
    """Replaces steps of torch for the rest of the process."""
    if hasattr(utils, "_materialize_cpp_cia_ops"):
        utils._materialize_cpp_cia_ops = _once_a_library(utils._materialize_cpp_cia_ops)
    if hasattr(utils, "_check_valid_to_preserve"):
        utils._check_valid_to_preserve = _once_an_operator(utils._check_valid_to_preserve)
    if hasattr(exported_program, "_override_composite_implicit_decomp"):
        exported_program._override_composite_implicit_decomp = _overriding_from_tables(
            exported_program._override_composite_implicit_decomp
        )
    if hasattr(exported_program, "_is_preservable_cia_op"):
        exported_program._is_preservable_cia_op = _asking_of_others(exported_program._is_preservable_cia_op)
    OperatorBase.py_impl = _registering_at_once(OperatorBase.py_impl)
    PhiloxState.reset = _resetting_at_once()
    _call_unrecorded(ShapeEnv)
    guards.profile_guard_manager = lambda *_: 0.0  # flushes the CPU's caches to log a latency


def _once_a_library(materialize):
    """Materialises composite operators once; torch does it for each namespace at each decomposition."""

    @functools.cache
    def of(namespaces, libraries):
        materialize()

    return lambda: of(len(torch.ops._dir), len(torch.ops.loaded_libraries))


def _once_an_operator(check):
    """Reads each schema once; what may change is whether the operator has a kernel."""
    of = functools.cache(lambda op, has_kernel: check(op))

    def quick(op):
        if not isinstance(op, OpOverload):
            return check(op)
        return of(op, torch._C._dispatch_has_kernel(op.name()))

    return quick


def _asking_of_others(is_preservable):
    """Asks of operators outside of aten alone: torch has taken those of aten out before it asks, 1,400 a table."""
    return lambda op: not op.name().startswith("aten::") and is_preservable(op)


def _overriding_from_tables(override):
    """Takes the kernels that 700 composite operators have within a decomposition from the decomposition before.

    Operators whose kernels outside have changed are torch's to override.
    """
    prepared = {}  # by operator: its kernels outside and within, and its rule for fake tensors

    def known(op):
        return op in prepared and prepared[op][0] == op.py_kernels and op not in op_implementations_dict

    @contextlib.contextmanager
    def quick(decompositions):
        rest = {op: function for op, function in decompositions.items() if not known(op)}
        outside = {op: op.py_kernels.copy() for op in rest if op not in op_implementations_dict}
        with override(rest):
            for op, kernels in outside.items():
                prepared[op] = kernels, op.py_kernels.copy(), op_implementations_dict[op]
            same = decompositions.keys() - rest.keys()
            for op in same:
                _, within, op_implementations_dict[op] = prepared[op]
                _set_kernels(op, {**within, DispatchKey.CompositeImplicitAutograd: decompositions[op]})
            try:
                yield
            finally:
                for op in same:
                    _set_kernels(op, prepared[op][0])
                    op_implementations_dict.pop(op, None)

    return quick


def _set_kernels(op, kernels):
    op.py_kernels.clear()
    op.py_kernels.update(kernels)
    op._dispatch_cache.clear()


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


def _resetting_at_once():
    """Resets a state of random numbers, three times before and after a trace, without new tensors in its place."""
    nothing = torch.tensor(())

    def reset(self):
        self.seed = self.base_offset = nothing
        self.relative_offset, self.offset_advanced_alteast_once = 0, False

    return reset


def _call_unrecorded(kind):
    """Calls methods themselves that torch records where it is to replay them: 100,000 calls for a dynamic model."""
    for name, method in list(vars(kind).items()):
        code = getattr(method, "__code__", None)
        if code is not None and code.co_filename == recording.__file__ and hasattr(method, "__wrapped__"):
            setattr(kind, name, method.__wrapped__)
