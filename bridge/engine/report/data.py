"""What the page's scripts read: items, tensors, and where they are drawn. All texts are printable."""

from collections.abc import Sequence
from typing import Any

from bridge.base.text import printable, shape_text
from bridge.engine.explain import lowerings
from bridge.engine.report import layout
from bridge.engine.report.measured import Row
from bridge.engine.report.network import Item, Network, Tensor
from bridge.engine_file.contents import EngineFile

MOST_DRAWN = 20_000
"""Items of a picture, and a tenth of its lines; of a larger network there is the table alone."""

_LONGEST = 2000  # characters of a text
_BOX_WIDTH = 208.0


def shown(value: object) -> str:
    """A text as the page shows it: without control characters, and not endless."""
    text = str(value)
    return printable(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…")


def values(file: EngineFile, network: Network, rows: Sequence[Row]) -> dict[str, Any]:
    """JSON values."""
    reasons = {(row["node"], row["op"]): f"{row['lowering']}: {row['why']}" for row in lowerings(file)}
    items = [_item(item, reasons) for item in network.items]
    _add_times(items, network, rows)
    everything = range(len(network.items))
    unfolded = [index for index in everything if not network.items[index].folded]
    views = {"values": _view(network, unfolded), "all": _view(network, everything)}
    return {
        "items": items,
        "tensors": [{"name": shown(tensor.name), "type": _type(tensor)} for tensor in network.tensors],
        "views": {name: view for name, view in views.items() if view},
        "boxWidth": _BOX_WIDTH,
        "boxHeight": layout.BOX_HEIGHT,
    }


def _item(item: Item, reasons: dict[tuple[str, str], str]) -> dict[str, Any]:
    node = item.node or {}
    reason = reasons.get((node.get("name", ""), item.kind))
    found = {
        "name": shown(item.name),
        "what": item.what,
        "kind": shown(item.kind),
        "folded": item.folded,
        "attributes": [[shown(key), shown(value)] for key, value in item.layer.get("attributes", {}).items()],
        "inputs": item.inputs,
        "outputs": item.outputs,
    }
    if node:
        found["node"] = {key: shown(node[key]) for key in ("name", "op", "module")}
    return found | ({"lowering": shown(reason)} if reason else {})


def _type(tensor: Tensor) -> str:
    return "unknown" if tensor.shape is None else shown(f"{tensor.dtype} {shape_text(tensor.shape)}")


def _add_times(items: list[dict[str, Any]], network: Network, rows: Sequence[Row]) -> None:
    """Microseconds, share and number of layers measured together; a layer that is in several rows has their sum."""
    indices = {item.name: index for index, item in enumerate(network.items) if item.layer}
    total = sum(row.us for row in rows)
    for row in rows:
        for name in row.layers:
            item = items[indices[name]]
            item["us"] = item.get("us", 0.0) + row.us
            item["share"] = item["us"] / total if total else 0.0
            item["together"] = max(item.get("together", 1), len(row.layers))


def _view(network: Network, drawn: Sequence[int]) -> dict[str, Any] | None:
    """A picture of some of the items; None where they, or their lines, are too many."""
    if len(drawn) > MOST_DRAWN:
        return None
    places = {index: place for place, index in enumerate(drawn)}
    edges = [edge for edge in network.edges if edge.source in places and edge.target in places]
    if len(edges) > 10 * MOST_DRAWN:
        return None
    lines = [(places[edge.source], places[edge.target], edge.tensor) for edge in edges]
    found = layout.layered([_BOX_WIDTH] * len(drawn), lines)
    return {
        "width": round(found.width),
        "height": round(found.height),
        "items": list(drawn),
        "centres": [[round(x), round(y)] for x, y in found.centres],
        "lines": [
            {
                "source": edge.source,
                "target": edge.target,
                "tensor": edge.tensor,
                "lane": lane,
                "points": [[round(x), round(y)] for x, y in points],
            }
            for edge, lane, points in zip(edges, found.lanes, found.lines, strict=True)
        ],
    }
