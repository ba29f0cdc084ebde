"""Passes: graph rewrites that find in an unmodified model what bridge's ops compute. One file a pass.

They work on ATen graphs: those of torch.export, and those that torch_tensorrt lowers. A pass replaces what it has
proved to be the op, and declines what is near it, with the reason; both are told as `Outcome`s. A file that defines
`PASS` is found by it: nothing lists the passes.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch.export import ExportedProgram
from torch.fx import Graph

from bridge.base.log import logger
from bridge.base.modules import modules_of
from bridge.graph.programs import copied
from bridge.passes.common.constants import Constants
from bridge.passes.common.definition import Pass
from bridge.passes.common.editor import sort
from bridge.passes.common.nodes import remove_unused
from bridge.passes.common.outcome import WRITTEN, Outcome, describe_failure
from bridge.passes.functional import functional, may_hide_something

__all__ = ["PASSES", "Outcome", "Pass", "rewrite", "rewrite_graph", "selected"]


def find() -> tuple[Pass, ...]:
    """Every pass, in the order in which they run."""
    found = [module.PASS for _, module in modules_of(__name__) if hasattr(module, "PASS")]
    return tuple(sorted(found, key=lambda each: (each.rank, each.name)))


PASSES = find()


def selected(setting: bool | Sequence[str]) -> tuple[str, ...]:
    """The names of the passes that a setting asks for: True is the default ones, False none."""
    if isinstance(setting, bool):
        return tuple(each.name for each in PASSES if each.default and setting)
    return tuple(each.name for each in PASSES if each.name in setting)


def rewrite_graph(graph: Graph, names: Iterable[str], inputs: Mapping[str, Any] | None = None) -> list[Outcome]:
    """Applies the passes of these names to a graph, in place, and says what they did.

    inputs: tensors that placeholders stand for, by their names, as far as they are known.
    """
    wanted = set(names)
    constants = Constants(graph, inputs)
    outcomes = [outcome for each in PASSES if each.name in wanted for outcome in _apply(each, graph, constants)]
    for outcome in outcomes:
        what = outcome.what if outcome.replaced else f"not replaced: {outcome.what}"
        logger.info("pass %s: %s; %s", outcome.name, what, outcome.line)
    if any(outcome.replaced for outcome in outcomes):
        remove_unused(graph)
        graph.lint()
    return outcomes


def _apply(each: Pass, graph: Graph, constants: Constants) -> list[Outcome]:
    """What a pass did. One that fails has replaced each place wholly or not at all."""
    try:
        return each.apply(graph, constants)
    except Exception as error:  # a graph that is not understood must not end a compile
        sort(graph)
        logger.warning("pass %s left a graph as it is: %s", each.name, error)
        return [Outcome(each.name, False, describe_failure(error), "at an unknown line", "")]


def rewrite(program: ExportedProgram, names: Sequence[str]) -> tuple[ExportedProgram, list[Outcome]]:
    """The program with these passes applied; the one that is given stays as it is, and is returned if none fits.

    Where in-place writes stand in the way, the program that is returned has none.
    """
    if not names:
        return program, []
    found, outcomes = _rewrite(program, names)
    if may_hide_something(program.graph) or any(outcome.what == WRITTEN for outcome in outcomes):
        without = _functional(program)
        again, anew = _rewrite(without, names)
        return (program if again is without else again), anew
    return found, outcomes


def _functional(program: ExportedProgram) -> ExportedProgram:
    try:
        return functional(program)
    except Exception as error:  # the lowering functionalises too, and tells of what it cannot
        logger.info("passes: the model's in-place writes stay: %s", describe_failure(error))
        return program


def _rewrite(program: ExportedProgram, names: Sequence[str]) -> tuple[ExportedProgram, list[Outcome]]:
    module, signature = copied(program)
    with module._set_replace_hook(signature.get_replace_hook()):
        outcomes = rewrite_graph(module.graph, names, _constants(program))
    if not any(outcome.replaced for outcome in outcomes):
        return program, outcomes
    module.recompile()
    return program._update(module, signature), outcomes


def _constants(program: ExportedProgram) -> dict[str, Any]:
    """The tensors that a program holds, by the names of the placeholders that stand for them."""
    held = {**program.constants, **program.state_dict}
    return {spec.arg.name: held[spec.target] for spec in program.graph_signature.input_specs if spec.target in held}
