"""Triton kernels of packages on the Python index, each as a user would wrap it: a triton_op of a few lines.

A function of `KERNELS` imports its package and defines the op; nothing is imported before. It must run outside of a
trace, as a user's import does.
"""

from public_kernels import conch, fla, fla_ops, gems, liger, mlstm, sage
from public_kernels.kernel import KERNELS as KERNELS

FILES = (liger, fla, fla_ops, conch, mlstm, sage, gems)
