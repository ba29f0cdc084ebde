"""Multi-scale deformable attention with one grid_sample per level, as bridge::ms_deform_attn.

Deformable DETR and its descendants split `value` into levels and sample each with grid_sample at 2 location - 1. They
stack the samples of all levels and sum them, weighted by the attention. common/axes.py tracks the axes of value,
locations and weights through all views and permutations, which proves that they match. The sum over levels and points
of

    samples[n h, d, q, l p] weights[n h, 1, q, l p], samples_l = grid_sample(value_l[n h, d, y, x], grid_l[n h, q, p])

is replaced, together with its view as [N, Q, H D]. The op computes coordinates in float32 from the locations; the model
computes them in its own dtype.
"""

from collections.abc import Mapping

import torch
from torch.fx import Graph, Node

from bridge.core.op import OPS
from bridge.passes.common.constants import Constants
from bridge.passes.common.definition import Pass
from bridge.passes.common.each_node import rewrite_each
from bridge.passes.common.editor import Editor
from bridge.passes.common.layout import LayoutError
from bridge.passes.common.nodes import aten, canonical_nodes, mutated_nodes, nodes_between
from bridge.passes.common.outcome import MUTATED, Outcome
from bridge.passes.ms_deform_attn.attention import Attention, Declined, find_attention, find_samplers
from bridge.passes.ms_deform_attn.sampling import Sampling, find_sampling

NAME = "ms_deform_attn"
_VIEWS = {aten.view.default, aten.reshape.default, aten._unsafe_view.default}


def apply(graph: Graph, constants: Constants) -> list[Outcome]:
    """Replaces multi-scale deformable attention in a graph, in place."""
    canonical, mutated = canonical_nodes(graph), mutated_nodes(graph)
    editor = Editor(graph)
    return rewrite_each(
        graph.find_nodes(op="call_function", target=aten.sum.dim_IntList),
        lambda node: _rewrite(editor, node, canonical, mutated, constants),
        (Declined, LayoutError),
        NAME,
        editor,
    )


def _rewrite(
    editor: Editor, node: Node, canonical: Mapping[Node, Node], mutated: set[Node], constants: Constants
) -> str | None:
    """The text of the op that replaces a sum; None for no sum of samples. Declined, LayoutError: it is not replaced."""
    samplers = find_samplers(node)
    if samplers is None:
        return None
    attention = find_attention(node, samplers, canonical)
    if mutated & nodes_between(attention.root, (attention.value, attention.locations, attention.weights)):
        raise Declined(MUTATED)
    sampling = find_sampling(attention.locations, attention.weights, attention.levels, attention.extents, constants)
    fused = sampling is not None and _is_supported(sampling, attention, mutated)
    _replace(editor, attention, sampling if fused else None)
    levels = ", ".join(f"{height}x{width}" for height, width in attention.levels)
    return f"bridge.{'ms_deform_attn_fused' if fused else 'ms_deform_attn'} over levels of {levels}"


def _is_supported(sampling: Sampling, attention: Attention, mutated: set[Node]) -> bool:
    """Whether the fused op takes these dtypes, and no in-place write lies between."""
    inputs = (sampling.references, sampling.offsets, sampling.logits)
    supported = (attention.value.meta["val"].dtype, torch.float32)
    if any(node.meta["val"].dtype not in supported for node in inputs):
        return False
    return not any(mutated & nodes_between(node, inputs) for node in (attention.locations, attention.weights))


def _replace(editor: Editor, attention: Attention, sampling: Sampling | None) -> None:
    """Replaces the attention by a call of the op, or of the fused op where there is a `sampling`."""
    count, points, root = len(attention.levels), attention.extents["p"], attention.root
    args = (attention.value, *_level_tables(editor, attention))
    if sampling is None:
        op = OPS["ms_deform_attn"]
        inputs = [
            _unfold(editor, attention.locations, [count, points, 2], 6),
            _unfold(editor, attention.weights, [count, points], 5),
        ]
    else:
        op = OPS["ms_deform_attn_fused"]
        inputs = [
            _expand_levels(editor, sampling.references, count),
            _unfold(editor, sampling.offsets, [count, points, 2], 6),
            _unfold(editor, sampling.logits, [count, points], 5),
        ]
    editor.replace(root, editor.call(op.overload, (*args, *inputs), root))


def _expand_levels(editor: Editor, references: Node, count: int) -> Node:
    """References expanded to [N, Q, L, 2 or 4]; they may be the same for all levels."""
    if references.meta["val"].shape[2] == count:
        return references
    return editor.call_once(aten.expand.default, (references, [-1, -1, count, -1]), references)


def _unfold(editor: Editor, node: Node, last: list[int], rank: int) -> Node:
    """The tensor reshaped to [N, Q, H, *last]."""
    if node.meta["val"].dim() == rank:
        return node
    return editor.call_once(aten.reshape.default, (node, [*editor.extents(node, 3), *last]), node)


def _level_tables(editor: Editor, attention: Attention) -> tuple[Node, Node]:
    """spatial_shapes [L, 2] and level_start_index [L]."""
    root = attention.root
    sizes = [[_extent(editor, maps, axis) for axis in (2, 3)] for maps in attention.maps]
    if all(isinstance(start, int) for start in attention.starts):
        starts = [_integer_tensor(editor, start, root) for start in attention.starts]
    else:  # contiguous levels: each starts where the one before ends
        starts = [_integer_tensor(editor, 0, root)]
        for height, width in sizes[:-1]:
            size = editor.call_once(aten.mul.Tensor, (height, width), root)
            starts.append(editor.call_once(aten.add.Tensor, (starts[-1], size), root))
    flat = editor.call_once(aten.cat.default, ([extent for size in sizes for extent in size],), root)
    shapes = editor.call_once(aten.reshape.default, (flat, [len(sizes), 2]), root)
    return shapes, editor.call_once(aten.cat.default, (starts,), root)


def _extent(editor: Editor, maps: Node, axis: int) -> Node:
    """The height (axis 2) or width (3) of a level, [1]."""
    extent = maps.meta["val"].shape[axis]
    if isinstance(extent, int):
        return _integer_tensor(editor, extent, maps)
    argument = maps.args[1][axis] if maps.target in _VIEWS else None  # type: ignore[index]
    integer = argument if isinstance(argument, Node) else editor.call_once(aten.sym_size.int, (maps, axis), maps)
    return editor.call_once(aten.mul.Tensor, (_integer_tensor(editor, 1, maps), integer), maps)


def _integer_tensor(editor: Editor, integer: int, like: Node) -> Node:
    """An integer as a tensor, [1]."""
    kwargs = {"dtype": torch.int64, "device": like.meta["val"].device}
    return editor.call_once(aten.full.default, ([1], integer), like, kwargs)


PASS = Pass(NAME, apply)
