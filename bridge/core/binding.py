"""bind: an operator that exists already becomes a plugin, under the name that it has."""

import sys
from typing import Any

import torch
from torch._ops import OpOverload, OpOverloadPacket

from bridge.core.attributes import Attribute
from bridge.core.foreign import FOREIGN, Arguments, Foreign, ReasonAgainst, SortArguments, SortedArguments, overload_of
from bridge.core.library import LIBRARIES
from bridge.core.op import OPS, Op, written
from bridge.core.signature import Signature
from bridge.core.tensors import ANY
from bridge.errors import OpDefinitionError, OpInputError

Operator = str | OpOverload | OpOverloadPacket

_ATTRIBUTES = {"int": "int", "SymInt": "int", "float": "float", "bool": "bool", "str": "str"}
_ATTRIBUTES |= {"List[int]": "int[]", "List[SymInt]": "int[]", "List[float]": "float[]"}


def bind(
    operator: Operator,
    op: str | None = None,
    *,
    arguments: SortArguments | None = None,
    reason_against: ReasonAgainst | None = None,
) -> Op:
    """Gives an operator that exists already a TensorRT plugin. It keeps its name and its kernels in PyTorch.

    Without `op` the plugin is one of the operator's own namespace and name: its op struct stands in
    ``lib<namespace>_plugins.so`` of the package that calls this, with the operator's signature. With `op` it is that of
    an op which is defined, whose arguments are named or ordered differently.

    Args:
        operator: the operator, such as ``torch.ops.acme.corr``; or its name, "acme::corr", which with `op` may be that
            of an operator that is not defined yet.
        op: the name of an op.
        arguments: sorts the arguments of a call, a mapping by the names of the operator's schema, into a sequence and a
            mapping, which are the op's positional and keyword arguments. By default they go by name.
        reason_against: says why the op cannot compute a call, given the arguments of a graph's node (torch.fx.Node for
            a tensor), or None where it can.
    Returns:
        The op.
    Raises:
        OpDefinitionError: there is no such op or operator, the operator has another plugin already, or its signature
            cannot be a plugin's: it writes into an argument, or has one that is neither a tensor nor a number.
    """
    name = _name(operator)
    reason_against = reason_against or (lambda given: None)
    if name in FOREIGN:
        raise OpDefinitionError(f"{name} is bound already, to the op {FOREIGN[name].op}")
    if op is None:
        if arguments is not None:
            raise OpDefinitionError(f"{name}: arguments are given without the op that takes them")
        definition = _own_op(name, sys._getframe(1).f_globals.get("__name__", "__main__"))
        FOREIGN[name] = Foreign(definition.name, _by_names(definition), reason_against)
        return definition
    if op not in OPS:
        raise OpDefinitionError(f"{name}: no op is called {op!r}; there are {', '.join(sorted(written()))}")
    FOREIGN[name] = Foreign(OPS[op].name, arguments or _by_names(OPS[op]), reason_against)
    return OPS[op]


class BoundOp(Op):
    """An op whose definition is an operator that torch has already: it takes the place of a reference."""

    def __init__(self, overload: OpOverload) -> None:
        schema = overload._schema
        Signature.__init__(self, schema.name)
        self.reference = overload
        for argument in schema.arguments:
            self._add_argument(argument)
        self.dtypes = [ANY for _ in self.tensors]
        if not schema.returns or any(str(each.type) != "Tensor" for each in schema.returns):
            raise OpDefinitionError(f"{schema.name} returns {_returns_text(schema)}, expected tensors")
        self.num_outputs = len(schema.returns)

    def _add_argument(self, argument: Any) -> None:
        where, kind = f"{self.qualified_name}, argument {argument.name}", str(argument.type)
        if argument.alias_info is not None and argument.alias_info.is_write:
            raise OpDefinitionError(f"{where}: the operator writes into it, which a plugin cannot")
        if kind in ("Tensor", "Optional[Tensor]"):
            if self.attributes:
                raise OpDefinitionError(f"{where}: tensors come before attributes; bind it to an op with `arguments`")
            self.tensors.append(argument.name)
            self.optional |= {argument.name} if kind != "Tensor" else set()
        elif kind in _ATTRIBUTES:
            attribute_type = f"int[{argument.N}]" if argument.N == 2 else _ATTRIBUTES[kind]
            default = argument.default_value if argument.has_default_value() else None
            self.attributes.append(Attribute(argument.name, attribute_type, _plain(default)))
        else:
            known = "Tensor, Tensor?, int, float, bool, str, int[], float[]"
            raise OpDefinitionError(f"{where}: is {kind}, expected {known}; bind it to an op with `arguments`")

    def matches(self, native: str) -> bool:
        """Whether an op struct has the operator's parameters, in name and type; defaults may differ."""
        return _parameters(torch._C.parse_schema(native)) == _parameters(self.overload._schema)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the operator."""
        tensors, attributes = self.check(args, kwargs)
        return self.reference(*tensors, **attributes)

    def register(self) -> None:
        """No-op: torch has the operator."""

    def disable_kernel(self, problem: str) -> None:
        """No-op: the operator's kernels are its own."""


def _own_op(name: str, module: str) -> Op:
    overload = overload_of(name)
    if overload is None:
        raise OpDefinitionError(f"torch has no operator {name}: import what defines it before it is bound")
    known = {op.qualified_name: op for op in OPS.values()}
    if name in known:
        raise OpDefinitionError(f"{name} is an op already, defined in {known[name].defined_in}; it needs no bind")
    definition = BoundOp(overload)
    library = LIBRARIES.of(definition.namespace, module)
    OPS[definition.name] = definition
    library.add(definition, loads_kernels=False)
    return definition


def _by_names(op: Op) -> SortArguments:
    """Sorts arguments that are named as the op's."""

    def sort(given: Arguments) -> SortedArguments:
        known = {*op.tensors, *(attribute.name for attribute in op.attributes)}
        if unknown := sorted(given.keys() - known):
            raise OpInputError(f"{op.name} has no parameter {', '.join(unknown)}: bind it with `arguments`")
        return (), given

    return sort


def _name(operator: Operator) -> str:
    if isinstance(operator, OpOverload):
        if operator._overloadname != "default":
            raise OpDefinitionError(f"{operator} is an overload; bind takes an operator's default one")
        return operator._schema.name
    name = operator if isinstance(operator, str) else operator._qualified_op_name
    if not all(name.partition("::")):
        raise OpDefinitionError(f"{name!r} is no operator's name; expected one such as 'acme::corr'")
    return name


def _parameters(schema: torch.FunctionSchema) -> list[tuple[str, str]]:
    pairs = [(each.name, str(each.type)) for each in schema.arguments]
    return [*((name, _ATTRIBUTES.get(kind, kind)) for name, kind in pairs), ("", str(len(schema.returns)))]


def _plain(default: Any) -> Any:
    return tuple(default) if isinstance(default, list) else default


def _returns_text(schema: torch.FunctionSchema) -> str:
    return ", ".join(str(each.type) for each in schema.returns) or "nothing"
