"""What the call of an operator tells a trace: its extents and their ranges."""

import torch
from torch import nn
from torch.export import Dim
from triton_ops import rms_norm

from bridge.generate.tracing.calls import body_of, call_of


class Norm(nn.Module):
    def forward(self, x, weight):
        return rms_norm(x, weight)


def test_ranges_begin_where_the_profile_does():
    """Though torch.export's begin at 2, also for an extent that is a multiple of another."""
    rows, pairs = Dim("rows", min=1, max=7), Dim("pairs", min=1, max=50)
    sizes = ({0: rows, 1: 2 * pairs}, {0: 2 * pairs})
    program = torch.export.export(Norm(), (torch.ones(3, 10), torch.ones(10)), dynamic_shapes=sizes)
    (node,) = program.graph.find_nodes(op="call_function", target=torch.ops.generate_test.rms_norm.default)
    call, _ = call_of(node, body_of(node.target))
    assert [(each.low, each.high, each.example) for each in call.symbols] == [(1, 7, 3), (2, 100, 10)]
