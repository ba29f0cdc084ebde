"""bridge.compile, torch.compile(backend='bridge'), torch_tensorrt's compile, and the pipeline that they share."""
