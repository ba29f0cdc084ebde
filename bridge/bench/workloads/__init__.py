"""What is measured of each op: one file an op, named like it.

A file gives the op's workloads, `workloads()`, and may give what others have for them, `PEERS`. Nothing lists the
files.
"""

from collections.abc import Iterable

from bridge.base.modules import modules_of
from bridge.bench.workload import Workload


def find() -> tuple[Workload, ...]:
    """Every workload, op by op."""
    return tuple(workload for _, module in modules_of(__name__) for workload in module.workloads())


WORKLOADS = find()


def select(ops: Iterable[str] = (), names: Iterable[str] = (), groups: Iterable[str] = ("default",)) -> list[Workload]:
    """Workloads of these ops (none: all), with one of these texts in their names (none: all of the groups).

    ValueError: an op or a name that no workload has.
    """
    ops, names = list(ops), list(names)
    for op in ops:
        if op not in {workload.op for workload in WORKLOADS}:
            raise ValueError(f"no workload is of {op!r}; there are {', '.join(sorted({w.op for w in WORKLOADS}))}")
    found = [workload for workload in WORKLOADS if not ops or workload.op in ops]
    for name in names:
        if not any(name in workload.name for workload in found):
            raise ValueError(f"no workload's name holds {name!r}; there are {', '.join(w.name for w in found)}")
    if names:
        return [workload for workload in found if any(name in workload.name for name in names)]
    return [workload for workload in found if workload.group in groups]
