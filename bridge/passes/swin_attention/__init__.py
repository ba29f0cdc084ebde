"""Attention within windows, with a relative position bias, as bridge::swin_attention.

Swin, Swin-v2 and MaxViT cut a map into windows, project them to queries, keys and values, attend with a bias of each
head and perhaps a mask of each window, project, and put the map together again. attention.py reads the attention,
terms.py what is added to its logits, packing.py what q, k and v are views of. That much becomes the op.

partition.py proves how the windows were cut from a map, rolled or not, and that the result is put together likewise. A
projection of each token is the same before a cut as after it: then the op takes the projected map, and no window is
copied. shift_masks.py compares masks that are constants with what the op adds by itself for a shift.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch.fx import Graph, Node

from bridge.passes.common.constants import Constants
from bridge.passes.common.definition import Pass
from bridge.passes.common.each_node import rewrite_each
from bridge.passes.common.editor import Editor
from bridge.passes.common.layout import LayoutError
from bridge.passes.common.nodes import canonical_nodes, mutated_nodes, nodes_between
from bridge.passes.common.outcome import MUTATED, Outcome
from bridge.passes.swin_attention.attention import Attention, Declined, find_attention
from bridge.passes.swin_attention.packing import Packing, find_packing
from bridge.passes.swin_attention.products import is_idle_dropout
from bridge.passes.swin_attention.replacing import NAME, Tables, put_map, put_windows
from bridge.passes.swin_attention.shift_masks import MaskValues
from bridge.passes.swin_attention.terms import BIAS, MASK, is_of_heads, nodes, parts_of
from bridge.passes.swin_attention.whole import Whole, find_result, find_whole

_MOST_TOKENS = 1024  # of a window
_MOST_HEAD_DIM = 256  # of bridge.swin_attention


@dataclass(frozen=True)
class _Known:
    """What is known of a graph."""

    constants: Constants
    canonical: Mapping[Node, Node]
    mutated: set[Node]
    masks: MaskValues


def apply(graph: Graph, constants: Constants) -> list[Outcome]:
    """Replaces attention within windows in a graph, in place."""
    mutated = mutated_nodes(graph)
    known = _Known(constants, canonical_nodes(graph), mutated, MaskValues(constants, mutated))
    editor = Editor(graph)
    return rewrite_each(graph.nodes, lambda node: _rewrite(editor, node, known), (Declined, LayoutError), NAME, editor)


def _rewrite(editor: Editor, node: Node, known: _Known) -> str | None:
    """The text of what replaces an attention; None for other nodes, and attention without a bias for heads.

    Declined, LayoutError: it has a bias, and is not replaced.
    """
    attention = find_attention(node, known.constants)
    tables = None if attention is None else _tables(attention)
    if attention is None or tables is None:
        return None
    _check(attention)
    packing = find_packing(attention, known.canonical)
    if packing is None:
        raise Declined("its queries, keys and values are not views of windows with channels last")
    result = find_result(attention)
    end = attention.root if result is None else result
    if known.mutated & nodes_between(end, packing.tensors):
        raise Declined(MUTATED)
    whole = None if result is None else _whole(packing, result, known)
    if whole is None:
        starts: tuple[Node, ...] = packing.tensors
        replaced = nodes_between(end, starts)
        description = put_windows(editor, attention, packing, tables, result)
    else:
        starts = (whole.partition.map,)
        replaced = nodes_between(whole.reverse.map, starts)
        description = put_map(editor, attention, packing, tables, whole, known.masks)
    _erase(editor.graph, replaced.difference(starts))
    return description


def _erase(graph: Graph, replaced: set[Node]) -> None:
    """Erases what has no user now: for torch, what draws random numbers in training is never dead code."""
    for node in sorted(replaced, reverse=True):
        if is_idle_dropout(node):
            node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
        if not node.users:
            graph.erase_node(node)


def _tables(attention: Attention) -> Tables | None:
    """What is added to the logits; None without a bias for heads. Declined: something else is added beside one."""
    parts = [parts_of(term) for term in attention.terms]
    found = [part for each in parts for part in each or ()]
    if not any(nodes(found, BIAS)):
        return None
    if any(each is None for each in parts):
        raise Declined("beside a bias for each head something is added that is not the same for all heads of a window")
    return Tables(tuple(nodes(found, BIAS)), tuple(nodes(found, MASK)))


def _check(attention: Attention) -> None:
    """Declined: bridge.swin_attention does not take it."""
    if attention.problem:
        raise Declined(attention.problem)
    if attention.tokens > _MOST_TOKENS:
        raise Declined(f"its windows have {attention.tokens} tokens; expected up to {_MOST_TOKENS}")
    if attention.head_dim > _MOST_HEAD_DIM:
        raise Declined(f"its heads are {attention.head_dim} wide; expected up to {_MOST_HEAD_DIM}")
    dtypes = {each.meta["val"].dtype for each in (attention.q, attention.k, attention.v, attention.root)}
    if len(dtypes) != 1:
        raise Declined(f"it is computed in {', '.join(sorted(map(str, dtypes)))}; expected one dtype")
    if attention.factors is not None and not is_of_heads(attention.factors):
        raise Declined("its cosines are multiplied by something else than a number for each head")


def _whole(packing: Packing, result: Node, known: _Known) -> Whole | None:
    """The projections and the map around an attention; None where the windows are not known to be a map's."""
    whole = find_whole(packing, result, known.canonical)
    if whole is None:
        return None
    written = {each for layer in (*whole.before, *whole.reverse.layers) for each in layer.all_input_nodes}
    if known.mutated & (nodes_between(whole.reverse.map, (whole.partition.map,)) | written):
        raise Declined(MUTATED)
    return whole


PASS = Pass(NAME, apply)
