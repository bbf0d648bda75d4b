"""Test-time augmentation: what a model says about an image and its mirror image, averaged."""

from typing import Literal

import torch
from torch import nn


class FlipAverage(nn.Module):
    """The mean of a model's logits for an image and for the same with left and right swapped."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Float (N, channels, H, W) to logits (N, classes)."""
        return (self.model(images) + self.model(images.flip(3))) / 2


def with_tta(model: nn.Module, tta: Literal["none", "flip"]) -> nn.Module:
    """The model, answering as the recipe's `tta` says."""
    return FlipAverage(model) if tta == "flip" else model
