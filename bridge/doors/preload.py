"""Imports what the doors need in one step, which Ctrl-C cannot interrupt. The backend imports this module first."""

from bridge.base.interrupts import deferred

with deferred():
    import bridge.doors.compiler
    import bridge.doors.lifted_graph
    import bridge.doors.partition
    import bridge.doors.reporting

    __all__ = ["bridge"]
