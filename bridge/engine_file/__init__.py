"""The engine file: a data format, which knows neither torch's graphs nor TensorRT."""
