"""What tests of window_attention share."""

import torch
from samples.window_attention import window_attention_arguments

import bridge
from bridge.testing import cast


def without_keys(device: str = "cpu", dtype: torch.dtype = torch.float32, head_dim: int = 16) -> torch.Tensor:
    """Results of queries of which every other one sees no key, and of which none has a gradient but zero there."""
    q, k, v, sinks, _ = window_attention_arguments(2, 40, 40, head_dim=head_dim, sinks=True)
    ranges = torch.tensor([[0, 40], [9, 9]]).repeat(20, 1)[None]
    given = cast([q, k, v, None, ranges], dtype)
    given = [t if t is None else t.to(device) for t in given]
    leaves = [t.requires_grad_() for t in given[:3]]
    result = bridge.window_attention(*given)
    result.float().square().sum().backward()
    assert all(leaf.grad.isfinite().all() for leaf in leaves)
    assert (bridge.window_attention(*given[:3], sinks.to(device), given[4])[:, :, 1::2] == 0).all()
    return result.detach()
