"""A model file for `bridge compile`: a plugin, two native lowerings, and each of bridge's own converters."""

import torch
from torch import Tensor, nn
from torch.nn import functional

import bridge


class EveryConverter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Conv2d(4, 18, 3, padding=1)
        self.weight = nn.Parameter(torch.randn(4, 4, 3, 3))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        """x [B, 4, S, 8], cos and sin [S, 4]."""
        batch, _, length, _ = x.shape
        q, k = bridge.rope(x, x, cos, sin, layout="bhsd")
        y = functional.scaled_dot_product_attention(q, k, x, is_causal=True)
        y = bridge.relu(bridge.deform_conv2d(y, self.offset(y), self.weight, padding=(1, 1)))
        larger = functional.interpolate(y, size=(length * 3 // 2, 12), mode="bilinear")
        places = torch.arange(length, device=x.device) + batch  # [S]
        sums = places.cumsum(0) % 7
        table = torch.zeros(8, dtype=torch.int64, device=x.device).scatter(0, sums[:1], places[:1])
        return y[:, :, -1], larger, sums, places.amax(), table


def bridge_model(argv: list[str]) -> tuple:
    batch, length = torch.export.Dim("batch", min=1, max=4), torch.export.Dim("length", min=2, max=16)
    args = torch.randn(2, 4, 6, 8), torch.randn(6, 4), torch.randn(6, 4)
    return EveryConverter().eval(), args, {}, {"x": {0: batch, 2: length}, "cos": {0: length}, "sin": {0: length}}
