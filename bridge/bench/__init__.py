"""`bridge bench`: how fast the ops' kernels are, how far from what the GPU allows, and beside what others have."""
