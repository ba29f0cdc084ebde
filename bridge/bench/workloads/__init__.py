"""What is measured of each op: one file an op, named like it.

A file gives the op's workloads, `workloads()`, and may give what others have for them, `PEERS`. Nothing lists the
files. Those of bridge's own ops are here; another library has the same in a package, or a module, called `workloads` in
one of the packages around the module that defines its ops.
"""

from collections.abc import Iterable, Sequence
from types import ModuleType

from bridge.base.modules import module_beside, modules_of
from bridge.bench.workload import Workload
from bridge.core import libraries
from bridge.core.op import NAMESPACE, OPS


def modules(namespace: str = NAMESPACE) -> list[ModuleType]:
    """The modules with the workloads and peers of a library. ValueError: it has none."""
    if namespace == NAMESPACE:
        return [module for _, module in modules_of(__name__)]
    library = libraries.library(namespace)
    found = module_beside(library.module, "workloads")
    if found is None:
        raise ValueError(
            f"the library {namespace} has no workloads: they are in a package `workloads`, with a module for each op, "
            f"in a package around {library.module}"
        )
    return [module for _, module in modules_of(found.__name__)] if hasattr(found, "__path__") else [found]


def find(namespace: str = NAMESPACE) -> tuple[Workload, ...]:
    """Every workload of a library, op by op. ValueError: it has none, or one names an op that is not the library's."""
    found = tuple((workload, module) for module in modules(namespace) for workload in module.workloads())
    for workload, module in found:
        if workload.op not in OPS or OPS[workload.op].namespace != namespace:
            known = ", ".join(op.name for op in libraries.library(namespace).ops.values())
            raise ValueError(f"{module.__name__} has a workload of {workload.op!r}; the ops of {namespace} are {known}")
    return tuple(workload for workload, _ in found)


WORKLOADS = find()


def select(
    ops: Iterable[str] = (),
    names: Iterable[str] = (),
    groups: Iterable[str] = ("default",),
    known: Sequence[Workload] = WORKLOADS,
) -> list[Workload]:
    """Workloads of these ops (none: all), with one of these texts in their names (none: all of the groups).

    ops: with their namespace or without it. known: all that there are.

    ValueError: an op or a name that no workload has.
    """
    ops, names = list(ops), list(names)
    measured = {workload.op for workload in known}
    for op in ops:
        if not any(_is(each, op) for each in measured):
            raise ValueError(f"no workload is of {op!r}; there are {', '.join(sorted(measured))}")
    found = [workload for workload in known if not ops or any(_is(workload.op, op) for op in ops)]
    for name in names:
        if not any(name in workload.name for workload in found):
            raise ValueError(f"no workload's name holds {name!r}; there are {', '.join(w.name for w in found)}")
    if names:
        return [workload for workload in found if any(name in workload.name for name in names)]
    return [workload for workload in found if workload.group in groups]


def _is(op: str, name: str) -> bool:
    """Whether an op is meant by a name, which may lack its namespace."""
    return name in (op, op.rpartition("::")[2])
