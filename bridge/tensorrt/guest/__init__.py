"""bridge inside torch_tensorrt's own compile: its patches, reversible, each with its reason."""
