"""Soft attention over windows and a soft top-k gate, in plain PyTorch."""

from acme_soft.model import SoftNet as SoftNet
from acme_soft.soft_gate import soft_gate as soft_gate
from acme_soft.window_pool import window_pool as window_pool
