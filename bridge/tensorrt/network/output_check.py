"""Checks a lowered graph's results: decompositions have been seen to change a shape."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from bridge.engine_file import dtypes
from bridge.errors import BuildError, UnsupportedOpError
from bridge.graph.model_source import model_line


def check_outputs(program: ExportedProgram, module: GraphModule) -> None:
    """Compares the results with the program's.

    Raises:
        UnsupportedOpError: a result is complex, and became real.
        BuildError: another one has another rank or another fixed extent.
    """
    specs = program.graph_signature.output_specs
    results = zip(specs, program.graph.output_node().args[0], strict=True)
    expected = [node for spec, node in results if spec.kind == OutputKind.USER_OUTPUT]
    lowered = pytree.tree_leaves(module.graph.output_node().args[0], is_leaf=lambda leaf: leaf is None)
    for index, (before, after) in enumerate(zip(expected, lowered, strict=False)):
        shape, lowered_shape = _shape(before), _shape(after)
        if shape is not None and lowered_shape is not None and not _may_be_equal(shape, lowered_shape):
            if (dtype := before.meta["val"].dtype).is_complex:
                raise UnsupportedOpError(
                    f"result {index} is {dtype}, {dtypes.absence(dtype)}\n  {model_line(before)}\n"
                    "Return torch.view_as_real of it."
                )
            raise BuildError(
                f"result {index} has shape {tuple(shape)} in the program and {tuple(lowered_shape)} after PyTorch"
                " decomposed its operators: a decomposition is wrong for"
                f"\n  {model_line(before)}\n"
                "Write that line with other operations, or reshape its result."
            )


def _shape(node: Any) -> Sequence[Any] | None:
    value = node.meta.get("val") if isinstance(node, Node) else None
    return value.shape if isinstance(value, Tensor) else None


def _may_be_equal(shape: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two shapes may be the same: the ranks are equal, and so are all pairs of fixed extents."""
    pairs = zip(shape, other, strict=False)
    return len(shape) == len(other) and all(a == b for a, b in pairs if isinstance(a, int) and isinstance(b, int))
