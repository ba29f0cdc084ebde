"""Cases that cannot be converted leave a model of many: what an error names is taken out, and the rest goes on.

Otherwise each of them would cost an export and a lowering of all the others.
"""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch.fx import GraphModule, Node

from bridge.doors import pipeline
from bridge.errors import BridgeError
from bridge.graph import model_source
from bridge.tensorrt.network import convertible_graph

_NAMED = re.compile(r"calls[._](\d+)|n\d+_(\d+)\b")  # a case by its module, or by one of its dimensions


def named_cases(detail: str) -> set[int]:
    """The places of the cases that an error names."""
    return {int(place) for match in _NAMED.findall(detail) for place in match if place}


@contextlib.contextmanager
def leaving_out() -> Iterator[dict[int, str]]:
    """Within it a compile leaves out the cases that have no converter, or whose converter fails; yields why, by place.

    Where one case alone is compiled, its error is raised.
    """
    left_out: dict[int, str] = {}

    def retried(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(module: GraphModule, *args: Any) -> Any:
            while True:
                try:
                    return function(module, *args)
                except BridgeError as error:
                    detail = f"{type(error).__name__}: {error}"
                    named = named_cases(detail)
                    if not named or not _leave_out(module, named):
                        raise
                    left_out.update(dict.fromkeys(named, detail))

        return run

    line = model_source.model_line
    with contextlib.ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if name.startswith("bridge.") and name != "bridge.graph.model_source" and hasattr(module, "model_line"):
                with_module = lambda node: f"{model_source.module_path(node)} {line(node)}"  # noqa: E731
                stack.enter_context(mock.patch.object(module, "model_line", with_module))
        stack.enter_context(mock.patch.object(convertible_graph, "_SHOWN_LINES", 1000))
        for name in ("check_supported", "_convert"):
            stack.enter_context(mock.patch.object(pipeline, name, retried(getattr(pipeline, name))))
        yield left_out


def _leave_out(module: GraphModule, places: set[int]) -> bool:
    """Makes the graph return a zero for each result of these cases; False if nothing of others would be left."""
    output = module.graph.output_node()
    leaves = list(output.args[0])  # type: ignore[arg-type]
    chosen = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Node) and _case(leaf) in places]
    if not chosen or len(chosen) == sum(isinstance(leaf, Node) for leaf in leaves):
        return False
    for place in chosen:
        name = f"left_out_{len(module._buffers)}"
        module.register_buffer(name, torch.zeros(()))
        with module.graph.inserting_before(output):
            leaves[place] = module.graph.get_attr(name)
        leaves[place].meta["val"] = torch.zeros(())
    output.args = (tuple(leaves),)
    module.graph.eliminate_dead_code()
    module.recompile()
    return True


def _case(node: Node) -> int | None:
    match = re.match(r"calls\.(\d+)", model_source.module_path(node))
    return int(match[1]) if match else None
