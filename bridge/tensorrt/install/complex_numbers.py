"""Graphs with operators of complex numbers for which torch_tensorrt has no rule, such as a Fourier transform."""

import contextlib
import importlib
from types import ModuleType
from typing import Any

from torch.fx import GraphModule, Node

from bridge.base.patches import replace

_LOWERING = "torch_tensorrt.dynamo.lowering.passes._aten_lowering_pass"
_REWRITING = "torch_tensorrt.dynamo.lowering.passes.complex_graph_rewrite"


def keep_beside_unknown_operators(stack: contextlib.ExitStack, trt: ModuleType) -> None:
    """Leaves a graph's complex numbers as they are if it has an operator for which torch_tensorrt has no rule.

    torch_tensorrt 2.14 wraps such an operator, but its users then read pairs of real numbers as one more
    dimension, and fail. Left alone, the operators can be named, or run in PyTorch.
    """
    lowering, rewriting = importlib.import_module(_LOWERING), importlib.import_module(_REWRITING)
    rewrite = lowering.complex_graph_detection
    known = {*rewriting.ComplexGraphRewriter._DISPATCH, *rewriting._ELEMENTWISE_SAFE}

    def rewrite_known(module: GraphModule, settings: Any) -> GraphModule:
        unknown = any(_is_complex(node) and node.target not in known for node in module.graph.nodes)
        return module if unknown else rewrite(module, settings)

    replace(stack, lowering, "complex_graph_detection", rewrite_known)


def _is_complex(node: Node) -> bool:
    value = node.meta.get("val")
    return node.op == "call_function" and bool(getattr(getattr(value, "dtype", None), "is_complex", False))
