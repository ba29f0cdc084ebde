"""Passes: graph rewrites that replace operators of an unmodified model by bridge's ops. One file per pass.

They work on ATen graphs: those of torch.export, and those that torch_tensorrt lowers. A pass replaces what it has
proved to be the op. It declines what only resembles the op, and gives a reason. Each result is an `Outcome`. A module
that defines `PASS` is discovered; nothing lists the passes.
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
from bridge.passes.common.editor import sort_topologically
from bridge.passes.common.nodes import remove_unused
from bridge.passes.common.outcome import MUTATED, Outcome, failure_text
from bridge.passes.functional import may_hide_ops, without_mutations

__all__ = ["PASSES", "Outcome", "Pass", "pass_names", "rewrite", "rewrite_graph"]


def discover() -> tuple[Pass, ...]:
    """Every pass, in the order in which they run."""
    passes = [module.PASS for _, module in modules_of(__name__) if hasattr(module, "PASS")]
    return tuple(sorted(passes, key=lambda each: (each.rank, each.name)))


PASSES = discover()


def pass_names(setting: bool | Sequence[str], flavour: str | None = None, target: str | None = None) -> tuple[str, ...]:
    """The names of the passes that a setting enables. True: the defaults of a TensorRT and a GPU. False: none."""
    if isinstance(setting, bool):
        return tuple(each.name for each in PASSES if setting and each.is_default(flavour, target))
    return tuple(each.name for each in PASSES if each.name in setting)


def rewrite_graph(
    graph: Graph, names: Iterable[str], inputs: Mapping[str, Any] | None = None, by_default: bool = False
) -> list[Outcome]:
    """Applies the named passes to a graph, in place.

    inputs: tensors behind the placeholders, by placeholder name, as far as they are known. by_default: the setting
    names no passes, and they leave to TensorRT what it is known to do faster.
    """
    enabled = set(names)
    constants = Constants(inputs)
    outcomes = [
        outcome for each in PASSES if each.name in enabled for outcome in _apply(each, graph, constants, by_default)
    ]
    for outcome in outcomes:
        what = outcome.what if outcome.replaced else f"not replaced: {outcome.what}"
        logger.info("pass %s: %s; %s", outcome.name, what, outcome.line)
    if any(outcome.replaced for outcome in outcomes):
        remove_unused(graph)
        graph.lint()
    return outcomes


def _apply(each: Pass, graph: Graph, constants: Constants, by_default: bool) -> list[Outcome]:
    """The outcomes of one pass. A pass that fails leaves no match half replaced."""
    function = each.apply_by_default if by_default and each.apply_by_default else each.apply
    try:
        return function(graph, constants)
    except Exception as error:  # a graph that a pass cannot read must not end the compilation
        sort_topologically(graph)
        logger.warning("pass %s left a graph as it is: %s", each.name, error)
        return [Outcome(each.name, False, failure_text(error), "at an unknown line", "")]


def rewrite(
    program: ExportedProgram, names: Sequence[str], by_default: bool = False
) -> tuple[ExportedProgram, list[Outcome]]:
    """A copy of the program with the named passes applied; the program itself where no pass matches.

    Where in-place writes hide an op, the copy is functionalised. by_default: as in rewrite_graph.
    """
    if not names:
        return program, []
    rewritten, outcomes = _rewrite(program, names, by_default)
    if may_hide_ops(program.graph) or any(outcome.what == MUTATED for outcome in outcomes):
        functional = _without_mutations(program)
        rewritten, outcomes = _rewrite(functional, names, by_default)
        if rewritten is functional:
            return program, outcomes
    return rewritten, outcomes


def _without_mutations(program: ExportedProgram) -> ExportedProgram:
    try:
        return without_mutations(program)
    except Exception as error:  # the lowering functionalises as well, and reports what it cannot
        logger.info("passes: the model's in-place writes stay: %s", failure_text(error))
        return program


def _rewrite(program: ExportedProgram, names: Sequence[str], by_default: bool) -> tuple[ExportedProgram, list[Outcome]]:
    module, signature = copied(program)
    with module._set_replace_hook(signature.get_replace_hook()):
        outcomes = rewrite_graph(module.graph, names, _constants(program), by_default)
    if not any(outcome.replaced for outcome in outcomes):
        return program, outcomes
    module.recompile()
    return program._update(module, signature), outcomes


def _constants(program: ExportedProgram) -> dict[str, Any]:
    """A program's own tensors, by placeholder name."""
    tensors = {**program.constants, **program.state_dict}
    return {
        spec.arg.name: tensors[spec.target] for spec in program.graph_signature.input_specs if spec.target in tensors
    }
