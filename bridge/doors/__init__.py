"""bridge.compile, torch.compile(backend='bridge') and torch_tensorrt's compile, and what they share."""
