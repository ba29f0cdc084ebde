"""A classifier of sequences that uses both ops; its weights are random."""

from torch import Tensor, nn

from acme_soft.soft_gate import soft_gate
from acme_soft.window_pool import window_pool


class SoftNet(nn.Module):
    """Pools features over windows of time, keeps about k channels of each step, and classifies the steps' mean.

    width: of the input. channels: of the features. k: channels that are kept. window: steps.
    """

    def __init__(self, width: int = 16, channels: int = 48, classes: int = 10, k: float = 8.0, window: int = 4) -> None:
        super().__init__()
        self.k, self.window = k, window
        self.features = nn.Sequential(nn.Linear(width, channels), nn.GELU(), nn.Linear(channels, channels))
        self.score = nn.Linear(channels, 1)
        self.importance = nn.Linear(channels, channels)
        self.classify = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, T, width]. Returns logits, [B, classes]."""
        features = self.features(x)  # [B, T, channels]
        pooled = window_pool(features, self.score(features).squeeze(-1), self.window)
        kept = pooled * soft_gate(self.importance(pooled), self.k, 0.5)
        return self.classify(kept.mean(1))
