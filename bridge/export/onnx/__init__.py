"""ONNX files whose nodes TensorRT's ONNX parser imports as plugins, and what runs them on a CPU."""
