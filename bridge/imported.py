"""What the doors import of torch, at once and not to be interrupted half way: the backend imports this module first."""

from bridge.interrupts import deferred

with deferred():
    import bridge.compiler
    import bridge.dynamo
    import bridge.partition
    import bridge.reporting

    __all__ = ["bridge"]
