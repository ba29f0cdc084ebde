"""Models of one deformable convolution, for the tests of its pass."""

import torch
from torch import nn
from torch.export import Dim, export

import bridge
from bridge.core.op import OPS
from bridge.passes import rewrite

OP, PLAIN = OPS["deform_conv2d_fused"].overload, OPS["deform_conv2d"].overload
CHANNELS, OUT, GROUPS, TAPS = 8, 16, 2, 9
OFFSETS, ALL = 2 * GROUPS * TAPS, 3 * GROUPS * TAPS


def split(prediction):
    offset, mask = prediction.split([OFFSETS, ALL - OFFSETS], dim=1)
    return offset, mask.sigmoid()


class Layer(nn.Module):
    """A convolution of its own predictions, and what follows it."""

    def __init__(self, cut, after=(), channels=ALL, bias=True, by="bridge"):
        super().__init__()
        torch.manual_seed(0)
        self.cut, self.by = cut, by
        self.predict = nn.Conv2d(CHANNELS, channels, 3, padding=1)
        self.weight = nn.Parameter(torch.randn(OUT, CHANNELS, 3, 3) * 0.2)
        self.bias = nn.Parameter(torch.randn(OUT)) if bias else None
        self.after = nn.Sequential(*after)
        for norm in (module for module in self.modules() if isinstance(module, nn.BatchNorm2d)):
            for tensor in (*norm.parameters(), *norm.buffers()):
                tensor.data = torch.rand_like(tensor) + 0.5 if tensor.is_floating_point() else tensor
        self.eval()

    def convolve(self, x):
        offset, mask = self.cut(self.predict(x))
        if self.by == "bridge":
            return bridge.deform_conv2d(x, offset, self.weight, self.bias, mask, padding=1)
        from torchvision.ops import deform_conv2d

        return deform_conv2d(x, offset, self.weight, self.bias, padding=1, mask=mask)

    def forward(self, x):
        return self.after(self.convolve(x))


def norm(**options):
    return nn.BatchNorm2d(OUT, **options)


def x_of(batch=2, height=7, width=9, dtype=torch.float32):
    return torch.randn(batch, CHANNELS, height, width, generator=torch.Generator().manual_seed(batch)).to(dtype)


PLANE = {0: Dim("batch", min=1, max=16), 2: Dim("height", min=3, max=64), 3: Dim("width", min=3, max=64)}


def rewritten(model, decomposed=False):
    program = export(model, (x_of(),), dynamic_shapes=(PLANE,))
    return rewrite(program.run_decompositions() if decomposed else program, ["deform_conv2d_fused"])


def calls(program, target=OP):
    return program.graph.find_nodes(op="call_function", target=target)


def check(model, what, *, decomposed=False):
    """It is replaced, with such a text, and computes the same at other extents."""
    program, outcomes = rewritten(model, decomposed)
    assert [(outcome.replaced, outcome.what) for outcome in outcomes] == [(True, f"bridge.deform_conv2d_fused, {what}")]
    assert len(calls(program)) == 1 and not [node for node in program.graph.nodes if "sigmoid" in str(node.target)]
    x = x_of(3, 12, 5)
    torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-4)
    return program
