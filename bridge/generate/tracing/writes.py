"""Which tensors a Triton kernel writes, as torch finds out from the kernel's intermediate code.

An operator whose kernel writes into an input, though its schema does not say so, would change TensorRT's own memory.
"""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch._higher_order_ops import triton_kernel_wrap

from bridge.errors import UnsupportedOpError
from bridge.generate.tracing.triton_launches import CaughtLaunch

_known: dict[tuple[Any, frozenset[str]], frozenset[str]] = {}  # kernel, its tensors → those that it writes


def check_writes(launch: CaughtLaunch, inputs: Mapping[str, str]) -> None:
    """inputs: what the operator calls the tensors that the kernel is given from outside, by the kernel's parameter.

    UnsupportedOpError: the kernel writes one of them.
    """
    if not inputs:
        return
    for parameter in sorted(_written(launch) & inputs.keys()):
        raise UnsupportedOpError(
            f"its kernel {launch.kernel.__name__} writes {parameter}, which is the operator's argument"
            f" {inputs[parameter]}: have it write a copy, and return that"
        )


def _written(launch: CaughtLaunch) -> frozenset[str]:
    """The tensors that a kernel writes; none where torch cannot tell."""
    arguments = launch.configurations[0].arguments
    tensors = frozenset(name for name, value in arguments.items() if isinstance(value, torch.Tensor))
    key = launch.kernel, tensors
    if key not in _known:
        _known[key] = _identified(launch.kernel, arguments)
    return _known[key]


def _identified(kernel: Any, arguments: Mapping[str, Any]) -> frozenset[str]:
    """torch names all tensors where its analysis fails, and logs that."""
    table = triton_kernel_wrap.kernel_side_table
    places = table.add_kernel(kernel), table.add_constant_args({})
    log, failures = triton_kernel_wrap.log, _Failures(logging.WARNING)
    log.addHandler(failures)
    before, log.propagate = log.propagate, False
    try:
        found = triton_kernel_wrap.get_mutated_tensors(*places, dict(arguments), {})
    finally:
        log.removeHandler(failures)
        log.propagate = before
    return frozenset() if failures.any else frozenset(found)


class _Failures(logging.Handler):
    any = False

    def emit(self, record: logging.LogRecord) -> None:
        self.any = True
