"""bridge's ops as TensorRT's plugins: fields, calls, shape rules, layers, registration."""
