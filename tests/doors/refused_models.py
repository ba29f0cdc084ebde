"""Models that are refused, and the message that says why."""

import pytest
import torch
from torch import nn
from torch.export import Dim

import bridge

BATCH = Dim("batch", min=1, max=8)


class Model(nn.Module):
    """A model whose forward is the function given."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        return self.function(self, x)


def refused(error, function, *args, x=None, **settings):
    """The message with which compiling the function is refused."""
    x = torch.randn(2, 4) if x is None else x
    with pytest.raises(error) as caught:
        bridge.compile(Model(function).eval(), (x,), **({"target": "sm86"} | settings))
    return str(caught.value)
