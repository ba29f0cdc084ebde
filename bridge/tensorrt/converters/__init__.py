"""Operators of torch's as TensorRT's layers, where torch_tensorrt has no converter that does."""
