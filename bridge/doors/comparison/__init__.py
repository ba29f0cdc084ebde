"""Generated plugins beside PyTorch, on the GPU that they were built for."""
