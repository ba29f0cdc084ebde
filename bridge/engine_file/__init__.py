"""The engine file: a data format, independent of torch's graphs and of TensorRT."""
