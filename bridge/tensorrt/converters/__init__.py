"""Converters of torch's operators to TensorRT's layers, where torch_tensorrt has none that is right."""
