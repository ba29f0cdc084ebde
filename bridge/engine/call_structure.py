"""Maps a model's arguments and results to the flat list of tensors of its engine.

A call's arguments flatten into leaves (torch's pytrees). Each leaf is an input of the engine, a literal, or a
tensor that the model does not use. The leaves of a result are outputs of the engine, its inputs, or literals. Literals
(None, numbers, strings) are fixed when the engine is compiled.
"""

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from bridge.base.text import printable, printable_lines
from bridge.engine_file.contents import EngineFile
from bridge.engine_file.output_names import names_of, output_names
from bridge.engine_file.pytrees import Tree, of_spec, to_spec
from bridge.errors import EngineError, EngineInputError, ExportError

_LONGEST_NAME = 256
UNUSED: dict[str, Any] = {"unused": True}


@dataclass(frozen=True)
class CallStructure:
    """The structure of one engine's calls, as its file keeps it.

    in_spec, out_spec: pytrees of ((args), {kwargs}) and of the result.
    arguments: names of the top-level arguments, positional ones first.
    input_map: for each leaf of the arguments the index of an engine input, {"literal": value} or {"unused": True}.
    output_map: for each leaf of the result the index of an engine output, {"literal": value} or {"input": index}.
    """

    in_spec: Tree
    out_spec: Tree
    arguments: list[str]
    input_map: list[Any]
    output_map: list[Any]

    @classmethod
    def of_file(cls, file: EngineFile) -> "CallStructure":
        """Reads it from an engine file. EngineError: the file does not describe the model's arguments."""
        missing = [name for name in ("arguments", "input_map") if name not in file.metadata]
        if missing:
            raise EngineError(
                f"the engine file has no {' and no '.join(missing)}; compile the model with bridge.compile"
            )
        return cls(file.in_spec, file.out_spec, file.metadata["arguments"], file.metadata["input_map"], file.output_map)

    def is_flat_call(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether the arguments of a call are the engine's inputs, in order: then nothing needs flattening."""
        return not kwargs and len(args) == self._flat_count and all(isinstance(arg, torch.Tensor) for arg in args)

    def flatten(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """The engine's inputs, in order, from the arguments of a call.

        Raises:
            EngineInputError: an argument is missing or unknown, has another structure than in the example, or differs
                from the literal that the engine was compiled with.
        """
        given = self._by_name(args, kwargs)
        inputs: dict[int, Any] = {}
        start = 0
        for name, spec in zip(self.arguments, self._argument_specs, strict=True):
            entries = self.input_map[start : start + spec.num_leaves]
            start += spec.num_leaves
            for leaf, entry in zip(_leaves(name, spec, given, entries), entries, strict=True):
                if isinstance(entry, int):
                    inputs[entry] = leaf
                elif "literal" in entry and not _equals_literal(leaf, entry["literal"]):
                    raise EngineInputError(
                        f"argument {name} is {leaf!r}; the engine was compiled with {entry['literal']!r} there"
                    )
        return [inputs[index] for index in range(len(inputs))]

    def unflatten(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
        """The model's result from the engine's inputs and outputs."""
        if self._container is not None:
            return self._container(outputs)
        leaves = [_result(entry, inputs, outputs) for entry in self.output_map]
        try:
            return pytree.tree_unflatten(leaves, self._out_spec)
        except Exception as error:  # raised by a class of the model's package, perhaps of another version
            what = printable_lines(f"{self._out_spec}: {type(error).__name__}: {error}")
            raise EngineError(
                f"the result cannot be put together as {what}; the class is not as it was when the model was compiled:"
                " compile it again"
            ) from error

    def _by_name(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        if len(args) > len(self.arguments):
            raise EngineInputError(f"got {len(args)} arguments; the model takes {', '.join(self.arguments) or 'none'}")
        given = dict(zip(self.arguments, args, strict=False))
        wrong = [name for name in kwargs if name in given or name not in self.arguments]
        if wrong:
            names = printable(", ".join(wrong))
            raise EngineInputError(
                f"arguments given twice or not in the example: {names}; it had {', '.join(self.arguments)}"
            )
        return given | dict(kwargs)

    @functools.cached_property
    def _flat_count(self) -> int:
        """The number of arguments if each is an input of the engine, in order; else -1."""
        flat = all(spec.is_leaf() for spec in self._argument_specs)
        return len(self.arguments) if flat and self.input_map == list(range(len(self.arguments))) else -1

    @functools.cached_property
    def _container(self) -> Callable[[Sequence[Any]], Any] | None:
        """Builds the result from the outputs, if it is the first of them or a tuple or list of all, in order."""
        if self.output_map != list(range(len(self.output_map))):
            return None
        if self._out_spec.is_leaf():
            return operator.itemgetter(0)
        flat = all(spec.is_leaf() for spec in self._out_spec.children())
        return self._out_spec.type if flat and self._out_spec.type in (tuple, list) else None

    @functools.cached_property
    def _argument_specs(self) -> list[pytree.TreeSpec]:
        args, kwargs = to_spec(self.in_spec).children()
        return [*args.children(), *kwargs.children()]

    @functools.cached_property
    def _out_spec(self) -> pytree.TreeSpec:
        return to_spec(self.out_spec)


def of_program(program: ExportedProgram, inputs: Sequence[str], output_map: list[Any]) -> CallStructure:
    """The structure of an exported program's calls; `inputs`: names of the engine's inputs in order.

    ExportError: an argument or the result holds a class that a file cannot have.
    """
    in_spec, out_spec = program.call_spec.in_spec, program.call_spec.out_spec
    places = {name: index for index, name in enumerate(inputs)}
    entries: list[Any] = []
    for spec in program.graph_signature.input_specs:
        if spec.kind.name == "USER_INPUT":
            literal = isinstance(spec.arg, torch.export.graph_signature.ConstantArgument)
            entries.append({"literal": spec.arg.value} if literal else places.get(spec.arg.name, UNUSED))
    return CallStructure(of_spec(in_spec), of_spec(out_spec), argument_names(program, in_spec), entries, output_map)


def argument_names(program: ExportedProgram, in_spec: pytree.TreeSpec) -> list[str]:
    """The names of the arguments of a call, positional ones first. ExportError: one is no identifier."""
    args, kwargs = in_spec.children()
    signature = program.module_call_graph[0].signature
    names = signature.forward_arg_names if signature is not None else None
    positional = names[: args.num_children] if names else [f"args_{index}" for index in range(args.num_children)]
    every = [*positional, *kwargs.context]
    for name in every:
        if not isinstance(name, str) or not name.isprintable() or len(name) > _LONGEST_NAME:
            raise ExportError(f"the model's argument {name!r} has a name that is no identifier; give it another one")
    return every


def flatten_outputs(
    module: GraphModule, program: ExportedProgram, taken: Sequence[str], variables: Sequence[str] = ()
) -> tuple[list[Any], list[str]]:
    """Removes duplicate results from the graph; returns the output map and the names of the engine's outputs.

    variables: what the model calls the results, where their structure does not say it. taken: names of inputs.
    ExportError: the model returns a number that depends on shapes.
    """
    output = module.graph.output_node()
    leaves: list[Any] = list(output.args[0])  # type: ignore[arg-type]
    paths = [(name,) for name in variables]
    names = names_of(paths, taken) if paths else output_names(program.call_spec.out_spec, taken)
    distinct: dict[Node, str] = {}
    for leaf, name in zip(leaves, names, strict=True):
        if isinstance(leaf, Node):
            if not isinstance(leaf.meta.get("val"), torch.Tensor) and leaf.op != "get_attr":
                raise ExportError(f"the model returns {name}, a number taken from a shape; return tensors, or drop it")
            distinct.setdefault(leaf, name)
    if not distinct:
        raise ExportError("the model returns no tensor; an engine has at least one output")
    output.args = (tuple(distinct),)
    places = {node: index for index, node in enumerate(distinct)}
    return [places[leaf] if isinstance(leaf, Node) else {"literal": leaf} for leaf in leaves], list(distinct.values())


def _result(entry: Any, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
    if isinstance(entry, int):
        return outputs[entry]
    return inputs[entry["input"]] if "input" in entry else entry["literal"]


def _leaves(name: str, spec: pytree.TreeSpec, given: Mapping[str, Any], entries: Sequence[Any]) -> list[Any]:
    if name not in given:
        if all(isinstance(entry, dict) and "literal" in entry for entry in entries):
            return [entry["literal"] for entry in entries]
        raise EngineInputError(f"argument {name} is missing")
    leaves, structure = pytree.tree_flatten(given[name])
    if structure != spec:
        expected = printable_lines(str(spec))
        raise EngineInputError(f"argument {name} has the structure {structure}; in the example it had {expected}")
    return leaves


def _equals_literal(value: Any, literal: Any) -> bool:
    if type(value) is not type(literal):
        return False
    return value == literal or (value != value and literal != literal)  # NaN is NaN


def of_tensors(arguments: list[str], results: int) -> CallStructure:
    """The structure of a graph that takes tensors and returns a tuple of tensors."""
    in_spec = pytree.tree_structure((tuple(range(len(arguments))), {}))
    out_spec = pytree.tree_structure(tuple(range(results)))
    return CallStructure(
        in_spec=of_spec(in_spec),
        out_spec=of_spec(out_spec),
        arguments=arguments,
        input_map=list(range(len(arguments))),
        output_map=list(range(results)),
    )
