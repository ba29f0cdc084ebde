"""Which TensorRT is installed, what it needs, the GPU it builds for, and what it reports."""
