"""Ops of the namespace mynamespace, for PyTorch and TensorRT."""

from mynamespace_myop.myop import myop as myop
