"""What the doors import of torch, at once and not to be interrupted half way: the backend imports this module first."""

from bridge.base.interrupts import deferred

with deferred():
    import bridge.doors.compiler
    import bridge.doors.dynamo
    import bridge.doors.partition
    import bridge.doors.reporting

    __all__ = ["bridge"]
