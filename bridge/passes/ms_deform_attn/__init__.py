"""Multi-scale deformable attention, written with one grid_sample a level, as bridge::ms_deform_attn.

Deformable DETR and its descendants cut `value` into levels, sample each with grid_sample at 2 location - 1, stack the
samples of all levels and sum them up with the attention weights. axes.py follows the axes of value, locations and
weights through whatever views and permutations lie between, so that it is proved which is which. The sum over the
levels and points of

    samples[n h, d, q, l p] weights[n h, 1, q, l p], samples_l = grid_sample(value_l[n h, d, y, x], grid_l[n h, q, p])

is replaced together with the views that make [N, Q, H D] of it. Coordinates are computed in float32 from the locations;
the model computes them in its own dtype.
"""

from collections.abc import Mapping

import torch
from torch.fx import Graph, Node

from bridge.core.op import OPS
from bridge.passes.common.constants import Constants
from bridge.passes.common.definition import Pass
from bridge.passes.common.editor import Editor
from bridge.passes.common.layout import LayoutError
from bridge.passes.common.nodes import aten, between, canonical, written
from bridge.passes.common.outcome import WRITTEN, Outcome
from bridge.passes.ms_deform_attn.attention import Attention, Declined, find_attention, find_samplers
from bridge.passes.ms_deform_attn.sampling import Sampling, find_sampling

NAME = "ms_deform_attn"
_VIEWS = {aten.view.default, aten.reshape.default, aten._unsafe_view.default}


def apply(graph: Graph, constants: Constants) -> list[Outcome]:
    """Replaces multi-scale deformable attention in a graph, in place."""
    same, touched = canonical(graph), written(graph)
    editor = Editor(graph)
    outcomes = []
    for node in list(graph.find_nodes(op="call_function", target=aten.sum.dim_IntList)):
        try:
            what = _find_and_replace(editor, node, same, touched, constants)
        except (Declined, LayoutError) as reason:
            outcomes.append(Outcome.at(node, NAME, False, str(reason)))
        except Exception as error:  # code of a kind that nobody thought of must not end the compile
            outcomes.append(Outcome.failed(node, NAME, error))
        else:
            outcomes += [Outcome.at(node, NAME, True, what)] if what else []
    if outcomes:
        editor.sort()
    return outcomes


def _find_and_replace(
    editor: Editor, node: Node, same: Mapping[Node, Node], touched: set[Node], constants: Constants
) -> str | None:
    """What is in the place of a sum now; None where it is no sum of samples. Declined, LayoutError: it is another."""
    samplers = find_samplers(node)
    if samplers is None:
        return None
    attention = find_attention(node, samplers, same)
    if touched & between(attention.root, (attention.value, attention.locations, attention.weights)):
        raise Declined(WRITTEN)
    sampling = find_sampling(attention.locations, attention.weights, attention.levels, attention.extents, constants)
    fused = sampling is not None and _fits(sampling, attention, touched)
    _replace(editor, attention, sampling if fused else None)
    levels = ", ".join(f"{height}x{width}" for height, width in attention.levels)
    return f"bridge.{'ms_deform_attn_fused' if fused else 'ms_deform_attn'} over levels of {levels}"


def _fits(sampling: Sampling, attention: Attention, touched: set[Node]) -> bool:
    """Whether the fused op takes these dtypes, and nothing is written to on the way."""
    given = (sampling.references, sampling.offsets, sampling.logits)
    known = (attention.value.meta["val"].dtype, torch.float32)
    if any(node.meta["val"].dtype not in known for node in given):
        return False
    return not any(touched & between(node, given) for node in (attention.locations, attention.weights))


def _replace(editor: Editor, attention: Attention, sampling: Sampling | None) -> None:
    """Puts a call of the op, or of the fused one, in the place of what it computes."""
    count, points, root = len(attention.levels), attention.extents["p"], attention.root
    args = (attention.value, *_level_tables(editor, attention))
    if sampling is None:
        op = OPS["ms_deform_attn"]
        rest = [
            _unfold(editor, attention.locations, [count, points, 2], 6),
            _unfold(editor, attention.weights, [count, points], 5),
        ]
    else:
        op = OPS["ms_deform_attn_fused"]
        rest = [
            _of_every_level(editor, sampling.references, count),
            _unfold(editor, sampling.offsets, [count, points, 2], 6),
            _unfold(editor, sampling.logits, [count, points], 5),
        ]
    editor.replace(root, editor.call(op.overload, (*args, *rest), root))


def _of_every_level(editor: Editor, references: Node, count: int) -> Node:
    """[N, Q, L, 2 or 4], of references that may be the same for all levels."""
    if references.meta["val"].shape[2] == count:
        return references
    return editor.once(aten.expand.default, (references, [-1, -1, count, -1]), references)


def _unfold(editor: Editor, node: Node, last: list[int], rank: int) -> Node:
    """[N, Q, H, *last]."""
    if node.meta["val"].dim() == rank:
        return node
    return editor.once(aten.reshape.default, (node, [*editor.extents(node, 3), *last]), node)


def _level_tables(editor: Editor, attention: Attention) -> tuple[Node, Node]:
    """spatial_shapes [L, 2] and level_start_index [L]."""
    root = attention.root
    sizes = [[_extent(editor, maps, axis) for axis in (2, 3)] for maps in attention.maps]
    if all(isinstance(start, int) for start in attention.starts):
        starts = [_number(editor, start, root) for start in attention.starts]
    else:  # one after the other
        starts = [_number(editor, 0, root)]
        for height, width in sizes[:-1]:
            size = editor.once(aten.mul.Tensor, (height, width), root)
            starts.append(editor.once(aten.add.Tensor, (starts[-1], size), root))
    flat = editor.once(aten.cat.default, ([extent for size in sizes for extent in size],), root)
    shapes = editor.once(aten.reshape.default, (flat, [len(sizes), 2]), root)
    return shapes, editor.once(aten.cat.default, (starts,), root)


def _extent(editor: Editor, maps: Node, axis: int) -> Node:
    """The height (axis 2) or width (3) of a level, [1]."""
    extent = maps.meta["val"].shape[axis]
    if isinstance(extent, int):
        return _number(editor, extent, maps)
    written_out = maps.args[1][axis] if maps.target in _VIEWS else None  # type: ignore[index]
    number = written_out if isinstance(written_out, Node) else editor.once(aten.sym_size.int, (maps, axis), maps)
    return editor.once(aten.mul.Tensor, (_number(editor, 1, maps), number), maps)


def _number(editor: Editor, number: int, like: Node) -> Node:
    """A whole number as a tensor, [1]."""
    kwargs = {"dtype": torch.int64, "device": like.meta["val"].device}
    return editor.once(aten.full.default, ([1], number), like, kwargs)


PASS = Pass(NAME, apply)
