"""Plugins whose kernels nobody has to port: Triton's, and those that Inductor writes for plain torch."""
