"""Plain torch as kernels that Inductor writes, without a GPU."""

from bridge.generate.inductor.lowering import Lowered, lower

__all__ = ["Lowered", "lower"]
