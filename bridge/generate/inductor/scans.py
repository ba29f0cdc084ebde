"""associative_scan in plain torch, whose kernel Inductor writes: the one operator that takes a function and has one.

torch compiles the function that it is given, which needs a GPU; here it is part of the trace. Known to work with torch
2.11 and 2.14.
"""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch._higher_order_ops.associative_scan  # noqa: F401 (torch has a function of the module's name)
from torch.fx import GraphModule

from bridge.base.patches import replace
from bridge.generate.without_gpu import having

_MODULE = sys.modules["torch._higher_order_ops.associative_scan"]
SCAN: Any = _MODULE.associative_scan_op
FILE = str(_MODULE.__file__)
"""Torch's, which asks tensors whether they are on a GPU."""


@contextlib.contextmanager
def traced_scans() -> Iterator[None]:
    """The context in which a scan is traced with its function. UnsupportedOpError: torch lacks what is replaced."""
    compile_and_run = "_maybe_compile_and_run_fn"
    with contextlib.ExitStack() as stack:
        replace(stack, having(_MODULE, compile_and_run), compile_and_run, lambda function, *args: function(*args))
        yield


def functions_of(module: GraphModule) -> dict[str, GraphModule]:
    """The functions of a graph's scans, by name; each returns a tuple, as Inductor expects."""
    functions = {name: each for name, each in module.named_children() if isinstance(each, GraphModule)}
    for each in functions.values():
        (end,) = each.graph.find_nodes(op="output")
        if not isinstance(end.args[0], (tuple, list)):
            end.args = ((end.args[0],),)
            each.recompile()
    return functions
