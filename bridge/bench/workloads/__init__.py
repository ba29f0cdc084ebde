"""The workloads of each op, one module per op, named like it.

A module defines `workloads()`, and `PEERS` if there are other implementations. Modules are discovered; nothing lists
them.
"""

from collections.abc import Iterable

from bridge.base.modules import modules_of
from bridge.bench.workload import Workload


def discover() -> tuple[Workload, ...]:
    """Every workload, op by op."""
    return tuple(workload for _, module in modules_of(__name__) for workload in module.workloads())


WORKLOADS = discover()


def select(ops: Iterable[str] = (), names: Iterable[str] = (), groups: Iterable[str] = ("default",)) -> list[Workload]:
    """The workloads of these ops (empty: all) whose names contain one of these texts (empty: all of the groups).

    ValueError: an op or a name that no workload has.
    """
    ops, names = list(ops), list(names)
    for op in ops:
        if op not in {workload.op for workload in WORKLOADS}:
            raise ValueError(f"no workload is of {op!r}; there are {', '.join(sorted({w.op for w in WORKLOADS}))}")
    candidates = [workload for workload in WORKLOADS if not ops or workload.op in ops]
    for name in names:
        if not any(name in workload.name for workload in candidates):
            raise ValueError(f"no workload's name holds {name!r}; there are {', '.join(w.name for w in candidates)}")
    if names:
        return [workload for workload in candidates if any(name in workload.name for name in names)]
    return [workload for workload in candidates if workload.group in groups]
