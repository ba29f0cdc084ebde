"""A lowered graph's results against the program's: what takes a program apart has been seen to change a shape."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from bridge.errors import BuildError
from bridge.graph.model_source import model_line


def check_outputs(program: ExportedProgram, module: GraphModule) -> None:
    """Raises BuildError where a result has another rank, or another fixed extent, than in the program."""
    specs = program.graph_signature.output_specs
    results = zip(specs, program.graph.output_node().args[0], strict=True)
    wanted = [node for spec, node in results if spec.kind == OutputKind.USER_OUTPUT]
    lowered = pytree.tree_leaves(module.graph.output_node().args[0], is_leaf=lambda leaf: leaf is None)
    for place, (before, after) in enumerate(zip(wanted, lowered, strict=False)):
        shape, changed = _shape(before), _shape(after)
        if shape is not None and changed is not None and not _agree(shape, changed):
            raise BuildError(
                f"result {place} has shape {tuple(shape)} in the program and {tuple(changed)} after PyTorch took its"
                " operators apart: a decomposition of PyTorch's is wrong for"
                f"\n  {model_line(before)}\n"
                "Write that line with other operations, or reshape its result."
            )


def _shape(node: Any) -> Sequence[Any] | None:
    value = node.meta.get("val") if isinstance(node, Node) else None
    return value.shape if isinstance(value, Tensor) else None


def _agree(shape: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two shapes may be the same: of equal rank, and equal where both extents are fixed."""
    pairs = zip(shape, other, strict=False)
    return len(shape) == len(other) and all(
        mine == theirs for mine, theirs in pairs if isinstance(mine, int) and isinstance(theirs, int)
    )
