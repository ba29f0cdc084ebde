"""The workloads of each op, one module per op, named like it.

A module defines `workloads()`, and `PEERS` if there are other implementations. Modules are discovered; nothing lists
them. Those of bridge's own ops are here; another library has the same in a package, or a module, called `workloads` in
one of the packages around the module that defines its ops.
"""

from collections.abc import Iterable, Sequence
from types import ModuleType

from bridge.base.modules import module_beside, modules_below, modules_of
from bridge.base.text import listing
from bridge.bench.workload import Workload
from bridge.core import libraries
from bridge.core.op import OPS
from bridge.core.signature import NAMESPACE
from bridge.errors import UnknownNameError


def modules(namespace: str = NAMESPACE) -> list[ModuleType]:
    """The modules with the workloads and peers of a library. ValueError: it has none."""
    if namespace == NAMESPACE:
        return [module for _, module in modules_below(__name__)]
    library = libraries.library(namespace)
    module = module_beside(library.module, "workloads")
    if module is None:
        raise ValueError(
            f"the library {namespace} has no workloads: they are in a package `workloads`, with a module for each op, "
            f"in a package around {library.module}"
        )
    return [each for _, each in modules_of(module.__name__)] if hasattr(module, "__path__") else [module]


def discover(namespace: str = NAMESPACE) -> tuple[Workload, ...]:
    """Every workload of a library, op by op. ValueError: it has none, or one names an op that is not the library's."""
    pairs = [(workload, module) for module in modules(namespace) for workload in module.workloads()]
    for workload, module in pairs:
        if workload.op not in OPS or OPS[workload.op].namespace != namespace:
            known = ", ".join(op.name for op in libraries.library(namespace).ops.values())
            raise ValueError(f"{module.__name__} has a workload of {workload.op!r}; the ops of {namespace} are {known}")
    return tuple(workload for workload, _ in pairs)


WORKLOADS = discover()


def select(
    ops: Iterable[str] = (),
    names: Iterable[str] = (),
    groups: Iterable[str] = ("default",),
    known: Sequence[Workload] = WORKLOADS,
) -> list[Workload]:
    """The workloads of these ops (empty: all) whose names contain one of these texts (empty: all of the groups).

    ops: with their namespace or without it. known: all that there are.

    UnknownNameError: an op or a name that no workload has.
    """
    ops, names = list(ops), list(names)
    measured = {workload.op for workload in known}
    for op in ops:
        if not any(_is(each, op) for each in measured):
            raise UnknownNameError(f"no workload is of {op!r}; there are {listing(sorted(measured), op)}")
    candidates = [workload for workload in known if not ops or any(_is(workload.op, op) for op in ops)]
    for name in names:
        if not any(name in workload.name for workload in candidates):
            there_are = listing([workload.name for workload in candidates], name)
            raise UnknownNameError(f"no workload's name holds {name!r}; there are {there_are}")
    if names:
        return [workload for workload in candidates if any(name in workload.name for name in names)]
    return [workload for workload in candidates if workload.group in groups]


def _is(op: str, name: str) -> bool:
    """Whether an op is meant by a name, which may lack its namespace."""
    return name in (op, op.rpartition("::")[2])
