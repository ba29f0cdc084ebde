"""Attention with a mask of blocks that a tensor names, as bridge::block_sparse_attention.

The tensor has an element for a block of queries and a block of keys, and a model makes a mask of pairs of it: it
repeats elements, or looks them up at i // 64 and j // 64. The readers of the pass window_attention read the mask as a
condition on the indices of the logits; blocks.py finds the tensor in it. Where there is none, arithmetic.py finds a
condition on the numbers of blocks. What else the mask hides may be later keys, and keys outside an interval of each
query. The dense mask then has no user left, and vanishes.
"""

import sympy
from torch.fx import Graph, Node

from bridge.core.op import OPS
from bridge.passes.block_sparse_attention.arithmetic import BlockFormula, block_formula
from bridge.passes.block_sparse_attention.blocks import Blocks, split
from bridge.passes.block_sparse_attention.flex import check_made_of
from bridge.passes.common.constants import Constants
from bridge.passes.common.definition import Pass
from bridge.passes.common.each_node import rewrite_each
from bridge.passes.common.editor import Editor
from bridge.passes.common.layout import LayoutError
from bridge.passes.common.nodes import mutated_nodes, nodes_between, remove_unused
from bridge.passes.common.outcome import MUTATED, Outcome
from bridge.passes.window_attention import erase
from bridge.passes.window_attention.attention import Attention, Declined
from bridge.passes.window_attention.band import UNLIMITED, NoWindow
from bridge.passes.window_attention.find import find_attention
from bridge.passes.window_attention.flex import FLEX
from bridge.passes.window_attention.formulas import Unread, axis, expression
from bridge.passes.window_attention.interval import Interval, interval_of
from bridge.passes.window_attention.key_ranges import key_ranges
from bridge.passes.window_attention.masking import gives_zeros, visible
from bridge.passes.window_attention.operators import RULES
from bridge.passes.window_attention.reader import Reader
from bridge.passes.window_attention.widths import call_of_one_width

NAME = "block_sparse_attention"


def apply(graph: Graph, constants: Constants) -> list[Outcome]:
    """Replaces attention with a mask of blocks in a graph, in place."""
    mutated = mutated_nodes(graph)
    reader = Reader(RULES, constants, mutated)
    editor = Editor(graph)
    outcomes = rewrite_each(
        graph.nodes,
        lambda node: _rewrite(editor, node, reader, constants, mutated),
        (Declined, NoWindow, LayoutError),
        NAME,
        editor,
    )
    if any(outcome.replaced for outcome in outcomes):
        remove_unused(graph)  # what was written out: the next pass would read it
    return outcomes


def _rewrite(editor: Editor, node: Node, reader: Reader, constants: Constants, mutated: set[Node]) -> str | None:
    """The text of what replaces an attention; None for other nodes. Declined, NoWindow: it has blocks, and stays."""
    found = _find(node, reader, constants)
    if found is None:
        return None
    attention, blocks, rest, shows_own = found
    inside = nodes_between(attention.root, (attention.q, attention.k, attention.v))
    if reader.changed or mutated & inside:
        raise Declined(MUTATED)
    is_flex = attention.fused is not None and attention.fused.target is FLEX
    if not (shows_own or is_flex or gives_zeros(attention)):
        raise Declined("its mask may hide all keys of a query, for which the model gives no zeros")
    if attention.sinks is not None:
        raise Declined(f"it has sinks, which bridge.{NAME} does not take")
    attention.check()
    interval = _interval(rest, attention)
    if is_flex:
        check_made_of(attention, blocks, constants)
    description = _with_op(editor, attention, blocks, interval, reader)
    erase(editor.graph, attention, inside)
    return description


def _find(
    node: Node, reader: Reader, constants: Constants
) -> tuple[Attention, Blocks | BlockFormula, object, bool] | None:
    """An attention with blocks: what they are, what else hides keys, and whether every query sees its own key."""
    try:
        attention = find_attention(node, constants)
        condition = None if attention is None else visible(reader, attention)
    except (Declined, NoWindow, Unread):  # window_attention says why
        return None
    if attention is None:
        return None
    found: tuple[Blocks | BlockFormula, object] | None = split(condition, reader.unknown, constants)
    if found is None and not _is_interval(condition, attention):
        found = block_formula(condition)
    own = axis(2) + expression(attention.logits[3]) - expression(attention.logits[2])
    shows_own = condition.xreplace({axis(3): own}) == sympy.true  # type: ignore[union-attr]
    return None if found is None else (attention, *found, shows_own)


def _is_interval(condition: object, attention: Attention) -> bool:
    """Whether it is one that window_attention takes, and blocks do not give as well."""
    try:
        return interval_of(condition, attention.logits, of_chunks=False) is not None
    except NoWindow:
        return False


def _interval(rest: object, attention: Attention) -> Interval:
    """What hides keys besides the blocks. Declined: more than later keys and those outside an interval."""
    interval = interval_of(rest, attention.logits)
    if interval is None or interval.window.left != UNLIMITED or interval.window.right not in (UNLIMITED, 0):
        raise Declined("its mask hides more than blocks, later keys, and keys outside an interval of each query")
    return interval


def _with_op(
    editor: Editor, attention: Attention, blocks: Blocks | BlockFormula, interval: Interval, reader: Reader
) -> str:
    """Replaces an attention by bridge.block_sparse_attention."""
    mask = blocks.tensor(editor, attention)
    optional = {}
    if interval.begins or interval.ends:
        optional["key_ranges"] = key_ranges(editor, attention, interval, reader.unknown)
    settings: dict[str, int | float] = {"query_block": blocks.query_block, "key_block": blocks.key_block}
    if interval.window.right == 0:
        settings["causal"] = True
    if attention.scale is not None:
        settings["scale"] = attention.scale
    if attention.softcap:
        settings["softcap"] = attention.softcap
    tensors = (attention.q, attention.k, attention.v, mask)
    call = call_of_one_width(editor, OPS[NAME].overload, tensors, attention.root, optional | settings)
    editor.replace(attention.root, call)
    text = ", ".join(f"{name}={_text(number)}" for name, number in settings.items())
    return f"bridge.{NAME}, {text}" + "".join(f", with {name}" for name in optional)


def _text(number: int | float) -> str:
    return f"{number:g}" if isinstance(number, float) else str(number)


PASS = Pass(NAME, apply)
