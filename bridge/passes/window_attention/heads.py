"""Keys and values before each head is repeated for the query heads that read it."""

from typing import Any

from torch.fx import Node

from bridge.passes.common.nodes import arguments, aten, before_copies, same_extents, value

_VIEWS = {aten.reshape.default, aten.view.default, aten._unsafe_view.default, aten._reshape_copy.default}


def before_repeat(k: Any, v: Any) -> tuple[Any, Any]:
    """Keys and values [B, G, T, D], of which each head was repeated to [B, H, T, D]; as they are where it was not."""
    sources = _unrepeated(k), _unrepeated(v)
    if sources[0] is None or sources[1] is None:
        return k, v
    groups = [each.meta["val"].shape[1:2] for each in sources if each is not None]
    return sources if same_extents(*groups) else (k, v)


def _unrepeated(node: Any) -> Node | None:
    """[B, G, T, D] of [B, G, 1, T, D], expanded along the third dimension and viewed as [B, H, T, D]."""
    node = before_copies(node)
    if not isinstance(node, Node):
        return None
    if node.target is aten.repeat_interleave.self_int:
        given = arguments(node)
        return given["self"] if given["dim"] in (1, -3) else None
    expanded = before_copies(node.args[0]) if node.target in _VIEWS else None
    if not isinstance(expanded, Node) or expanded.target is not aten.expand.default:
        return None
    grown = expanded.args[0]
    if not isinstance(grown, Node) or grown.target is not aten.unsqueeze.default or grown.args[1] not in (2, -3):
        return None
    source = grown.args[0]
    return source if isinstance(source, Node) and _merges_heads(source, expanded, node) else None


def _merges_heads(source: Node, expanded: Node, merged: Node) -> bool:
    """Whether the shapes are [B, G, T, D], [B, G, R, T, D] and [B, G R, T, D]."""
    tensors = [value(each) for each in (source, expanded, merged)]
    if any(each is None for each in tensors):
        return False
    before, wide, after = (each.shape for each in tensors if each is not None)
    if (len(before), len(wide), len(after)) != (4, 5, 4):
        return False
    batch, groups, repeats, *rest = wide
    return same_extents(before, [batch, groups, *rest]) and same_extents(after, [batch, groups * repeats, *rest])
