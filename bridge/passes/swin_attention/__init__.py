"""Attention within windows as bridge::swin_attention.

Swin, Swin-v2 and MaxViT cut a map into windows, project them to queries, keys and values, attend with a bias of each
head and perhaps a mask of each window, project, and put the map together again. attention.py reads the attention,
terms.py what is added to its logits, packing.py what q, k and v are views of. That much becomes the op. Without a bias,
as in DaViT, Twins and SAM 2, attention is known to be of windows by how they were cut from a map alone; strided.py has
Hiera's, which are never cut.

partition.py proves how the windows were cut from a map, rolled or not, and that the result is put together likewise. A
projection of each token is the same before a cut as after it: then the op takes the projected map, and no window is
copied. shift_masks.py compares masks that are constants with what the op adds by itself for a shift.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch.fx import Graph, Node

from bridge.passes.common.constants import Constants
from bridge.passes.common.definition import Pass
from bridge.passes.common.each_node import rewrite_each
from bridge.passes.common.editor import Editor
from bridge.passes.common.layout import LayoutError
from bridge.passes.common.nodes import canonical_nodes, erase_unused, mutated_nodes, nodes_between
from bridge.passes.common.outcome import MUTATED, Outcome
from bridge.passes.swin_attention.attention import Attention, Declined, find_attention
from bridge.passes.swin_attention.packing import find_packing
from bridge.passes.swin_attention.products import is_idle_dropout
from bridge.passes.swin_attention.replacing import NAME, Tables, put_map, put_strided, put_windows
from bridge.passes.swin_attention.shift_masks import MaskValues
from bridge.passes.swin_attention.strided import find_strided
from bridge.passes.swin_attention.terms import BIAS, MASK, is_of_heads, nodes, parts_of
from bridge.passes.swin_attention.whole import Whole, find_result, find_whole

_MOST_TOKENS = 1024  # of a window
_MOST_HEAD_DIM = 256  # of bridge.swin_attention
_MOST_FAST_HEAD_DIM, _VECTOR = 128, 8  # of its kernels for tensor cores, which read so many elements at once


@dataclass(frozen=True)
class _Known:
    """What is known of a graph."""

    constants: Constants
    canonical: Mapping[Node, Node]
    mutated: set[Node]
    masks: MaskValues
    fast_only: bool


def apply(graph: Graph, constants: Constants, fast_only: bool = False) -> list[Outcome]:
    """Replaces attention within windows in a graph, in place. fast_only: where the op has kernels for tensor cores."""
    mutated = mutated_nodes(graph)
    known = _Known(constants, canonical_nodes(graph), mutated, MaskValues(constants, mutated), fast_only)
    editor = Editor(graph)
    return rewrite_each(graph.nodes, lambda node: _rewrite(editor, node, known), (Declined, LayoutError), NAME, editor)


def _rewrite(editor: Editor, node: Node, known: _Known) -> str | None:
    """The text of what replaces an attention; None for other nodes, and attention that is not known to be of windows.

    Declined, LayoutError: it has a bias for heads, or cuts windows from a map, and is not replaced.
    """
    attention = find_attention(node, known.constants)
    if attention is None:
        return None
    tables = _tables(attention)
    packing, result = find_packing(attention, known.canonical), find_result(attention)
    whole = None if packing is None or result is None else find_whole(packing, result, known.canonical)
    is_cut = whole is not None and whole.partition.moves
    if tables is None:
        if is_cut:
            raise Declined("what is added to its logits is neither a bias for each head nor a mask for each window")
        return None
    if not tables.biases and not is_cut:
        return _rewrite_strided(editor, attention, known)
    _check(attention, known)
    if packing is None:
        raise Declined("its queries, keys and values are not views of windows with channels last")
    starts = packing.tensors if whole is None else (whole.partition.map,)
    end = whole.reverse.map if whole is not None else attention.root if result is None else result
    replaced = nodes_between(end, starts)
    if known.mutated & (replaced | _weights(whole)):
        raise Declined(MUTATED)
    if whole is None:
        description = put_windows(editor, attention, packing, tables, result)
    else:
        description = put_map(editor, attention, packing, tables, whole, known.masks)
    _erase(replaced.difference(starts))
    return description


def _rewrite_strided(editor: Editor, attention: Attention, known: _Known) -> str | None:
    """As _rewrite, of windows whose tokens are strided in a sequence."""
    strided = find_strided(attention, known.canonical)
    if strided is None or strided.windows < 2:
        return None
    _check(attention, known)
    replaced = nodes_between(strided.result, (strided.base,))
    if known.mutated & replaced:
        raise Declined(MUTATED)
    description = put_strided(editor, attention, strided)
    _erase(replaced.difference((strided.base,)))
    return description


def _weights(whole: Whole | None) -> set[Node]:
    """What the norms and projections around an attention read."""
    layers = () if whole is None else (*whole.norms, *whole.before, *whole.reverse.layers)
    return {each for layer in layers for each in layer.all_input_nodes}


def _erase(replaced: set[Node]) -> None:
    """Erases what has no user now, idle dropout among it."""
    for node in filter(is_idle_dropout, replaced):
        node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
    erase_unused(replaced)


def _tables(attention: Attention) -> Tables | None:
    """What is added to the logits; None where it is something else than biases and masks. Declined: and a bias, too."""
    parts = [parts_of(term) for term in attention.terms]
    found = [part for each in parts for part in each or ()]
    if any(each is None for each in parts):
        if not any(nodes(found, BIAS)):
            return None
        raise Declined("beside a bias for each head something is added that is not the same for all heads of a window")
    return Tables(tuple(nodes(found, BIAS)), tuple(nodes(found, MASK)))


def _check(attention: Attention, known: _Known) -> None:
    """Declined: bridge.swin_attention does not take it, or is slow with it."""
    if attention.problem:
        raise Declined(attention.problem)
    if attention.tokens > _MOST_TOKENS:
        raise Declined(f"its windows have {attention.tokens} tokens; expected up to {_MOST_TOKENS}")
    if attention.head_dim > _MOST_HEAD_DIM:
        raise Declined(f"its heads are {attention.head_dim} wide; expected up to {_MOST_HEAD_DIM}")
    dtypes = {each.meta["val"].dtype for each in (attention.q, attention.k, attention.v, attention.root)}
    if len(dtypes) != 1:
        raise Declined(f"it is computed in {', '.join(sorted(map(str, dtypes)))}; expected one dtype")
    if known.fast_only:
        _check_fast(dtypes.pop(), attention.head_dim)
    if attention.factors is not None and not is_of_heads(attention.factors):
        raise Declined("its cosines are multiplied by something else than a number for each head")


def _check_fast(dtype: torch.dtype, head_dim: int) -> None:
    """Declined: the op has no kernel for tensor cores, and TensorRT has."""
    if dtype == torch.float32 or head_dim % _VECTOR or head_dim > _MOST_FAST_HEAD_DIM:
        raise Declined(
            f"in {dtype} with heads {head_dim} wide TensorRT's own layers are faster; passes=[{NAME!r}, ...] takes it"
        )


PASS = Pass(NAME, apply, apply_by_default=partial(apply, fast_only=True))
