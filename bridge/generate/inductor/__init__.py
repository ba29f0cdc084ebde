"""Plain torch as kernels that Inductor writes, without a GPU."""

from bridge.generate.inductor.lowering import Lowered, lower, wrote_all

__all__ = ["Lowered", "lower", "wrote_all"]
