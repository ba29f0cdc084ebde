"""Everything that knows TensorRT's Python API. Importing this package imports no TensorRT."""
