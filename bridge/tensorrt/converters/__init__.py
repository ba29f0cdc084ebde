"""Converters of torch's operators to TensorRT's layers that torch_tensorrt lacks or gets wrong."""
