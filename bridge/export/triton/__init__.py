"""Model repositories of Triton Inference Server, and how a model in one answers requests."""
