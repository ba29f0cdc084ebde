"""Rewrites nodes of a graph one by one, each with an outcome."""

from collections.abc import Callable, Iterable

from torch.fx import Node

from bridge.passes.common.editor import Editor
from bridge.passes.common.outcome import Outcome


def rewrite_each(
    nodes: Iterable[Node],
    rewrite: Callable[[Node], str | None],
    refusals: tuple[type[Exception], ...],
    name: str,
    editor: Editor,
) -> list[Outcome]:
    """The outcomes of a pass.

    rewrite: replaces what ends at a node by `editor`, and returns the text of what replaces it; None: there is nothing.
    refusals: what it raises where it replaces nothing, with the reason.
    """
    outcomes = []
    for node in list(nodes):
        try:
            description = rewrite(node)
        except refusals as reason:
            outcomes.append(Outcome.at(node, name, False, str(reason)))
        except Exception as error:  # an unforeseen graph must not end the compilation
            outcomes.append(Outcome.failed(node, name, error))
        else:
            outcomes += [Outcome.at(node, name, True, description)] if description else []
    if outcomes:
        editor.sort_topologically()
    return outcomes
