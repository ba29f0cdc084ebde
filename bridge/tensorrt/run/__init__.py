"""Runs an engine on torch tensors. Needs no torch_tensorrt."""
