"""Ops of the namespace acme, for PyTorch and TensorRT: local correlation, and a flow model that uses it."""

from acme_corr.corr import corr as corr
from acme_corr.model import FlowNet as FlowNet
