"""Shared by all passes: reading nodes, constants, editing, strides, axes, outcomes."""
