"""Parts of published models that sample feature maps of any height and width where a network says."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bridge


def pixels(height: int, width: int, like: Tensor) -> Tensor:
    """The x and y of every pixel: [H, W, 2]."""
    y = torch.arange(height, dtype=like.dtype, device=like.device)
    x = torch.arange(width, dtype=like.dtype, device=like.device)
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack((columns, rows), -1)


class Alignment(nn.Module):
    """Second-order alignment as video restoration has it: two earlier maps follow their flow to the current one.

    A network refines the flows to the offsets of a modulated deformable convolution.
    """

    def __init__(self, channels: int = 4, groups: int = 2) -> None:
        super().__init__()
        taps = 9 * groups
        self.predict = nn.Sequential(
            nn.Conv2d(3 * channels + 4, channels, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(channels, 3 * taps, 3, padding=1),
        )
        self.weight = nn.Parameter(torch.randn(channels, 2 * channels, 3, 3) / 6)
        self.bias = nn.Parameter(torch.randn(channels))

    @staticmethod
    def warp(x: Tensor, flow: Tensor) -> Tensor:
        """x [N, C, H, W] at the pixels moved by flow [N, 2, H, W]."""
        height, width = x.shape[2:]
        positions = pixels(height, width, x) + flow.permute(0, 2, 3, 1)
        across = 2.0 * positions[..., 0] / max(width - 1, 1) - 1.0
        down = 2.0 * positions[..., 1] / max(height - 1, 1) - 1.0
        return F.grid_sample(x, torch.stack((across, down), 3), align_corners=True)

    def forward(self, current: Tensor, earlier: Tensor, flows: Tensor) -> Tensor:
        """current [N, C, H, W], earlier [N, 2C, H, W], flows [N, 4, H, W]."""
        (first, second), (flow, further) = earlier.chunk(2, 1), flows.chunk(2, 1)
        seen = torch.cat((self.warp(first, flow), current, self.warp(second, further), flows), 1)
        one, two, mask = self.predict(seen).chunk(3, 1)
        one, two = (5 * part.tanh() for part in (one, two))
        one = one + flow.flip(1).repeat(1, one.shape[1] // 2, 1, 1)
        two = two + further.flip(1).repeat(1, two.shape[1] // 2, 1, 1)
        return bridge.deform_conv2d(
            earlier, torch.cat((one, two), 1), self.weight, self.bias, mask.sigmoid(), padding=1
        )

    @staticmethod
    def example(height: int, width: int) -> tuple[Tensor, ...]:
        """current, earlier and flows of a size."""
        return tuple(torch.randn(1, channels, height, width) for channels in (4, 8, 4))


class Sampled(nn.Module):
    """Deformable convolution without weights between channels: groups of channels are sampled at nine points each.

    softmax: the weights of the points add up to 1, as in the third version of it; in the fourth they are any.
    """

    def __init__(self, softmax: bool, channels: int = 8, groups: int = 2, scale: float = 1.5) -> None:
        super().__init__()
        self.softmax, self.groups, self.scale = softmax, groups, scale
        self.value = nn.Linear(channels, channels)
        self.near = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.offsets = nn.Linear(channels, groups * 9 * 2)
        self.weights = nn.Linear(channels, groups * 9)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, H, W, C]."""
        batch, height, width, _ = x.shape
        value = F.pad(self.value(x), (0, 0, 1, 1, 1, 1)).permute(0, 3, 1, 2)
        hint = F.gelu(self.near(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        offsets = self.offsets(hint).view(batch, height, width, self.groups, 9, 2)
        weights = self.weights(hint).view(batch, height, width, self.groups, 9)
        weights = weights.softmax(-1) if self.softmax else weights
        taps = pixels(3, 3, x).transpose(0, 1).reshape(9, 2) - 1
        positions = (pixels(height, width, x) + 1.5)[:, :, None, None] + self.scale * (taps + offsets)
        sizes = torch.tensor([width + 2, height + 2], dtype=x.dtype, device=x.device)
        grid = 2 * positions / sizes - 1  # [N, H, W, groups, 9, 2]
        grid = grid.permute(0, 3, 1, 2, 4, 5).reshape(batch * self.groups, height * width, 9, 2)
        maps = value.reshape(batch * self.groups, -1, height + 2, width + 2)
        samples = F.grid_sample(maps, grid, align_corners=False)  # [N * groups, C / groups, H * W, 9]
        weights = weights.permute(0, 3, 1, 2, 4).reshape(batch * self.groups, 1, height * width, 9)
        return self.out((samples * weights).sum(-1).reshape(batch, -1, height, width).permute(0, 2, 3, 1))

    @staticmethod
    def example(height: int, width: int) -> tuple[Tensor, ...]:
        """x of a size."""
        return (torch.randn(2, height, width, 8),)
