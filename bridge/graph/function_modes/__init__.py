"""Modes within which a model is captured: its calls of torch functions, and of tensors, go through them."""
