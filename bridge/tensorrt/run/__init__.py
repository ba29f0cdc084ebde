"""An engine that runs on torch tensors. Needs no torch_tensorrt."""
