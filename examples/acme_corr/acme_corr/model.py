"""A small optical flow model around acme::corr; its weights are random."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acme_corr.corr import corr


class FlowNet(nn.Module):
    """Features of both images at an eighth of their size, their correlation, and convolutions that refine its flow.

    width: channels of the features. radii: of the correlation, (vertical, horizontal).
    """

    def __init__(self, width: int = 32, radii: tuple[int, int] = (4, 4)) -> None:
        super().__init__()
        self.radii = list(radii)
        layers = [nn.Conv2d(*pair, 3, stride=2, padding=1) for pair in pairwise((3, width // 2, width, width))]
        self.encode = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
        displacements = (2 * radii[0] + 1) * (2 * radii[1] + 1)
        self.refine = nn.Sequential(
            nn.Conv2d(displacements + width + 2, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 2, 3, padding=1)
        )

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """first, second: images, [B, 3, H, W] with H and W multiples of 8. Returns the flow in pixels, [B, 2, H, W]."""
        f1, f2 = self.encode(first), self.encode(second)  # [B, width, H / 8, W / 8]
        cost, flow = corr(f1, f2, self.radii)
        flow = flow + self.refine(torch.cat((cost, f1, flow), 1))
        return 8 * F.interpolate(flow, scale_factor=8.0, mode="bilinear", align_corners=False)
