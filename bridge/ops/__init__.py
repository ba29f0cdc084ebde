"""The ops, one file each. A file defines the op of its name with :func:`bridge.op.op`; nothing else lists it."""
