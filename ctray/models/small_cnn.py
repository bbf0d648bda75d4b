"""A small convolutional network trained from scratch, the deck's baseline."""

import torch
from torch import nn


class SmallCNN(nn.Module):
    """Five convolution blocks (16 to 128 channels), global average pooling and one linear layer.

    Input float (N, 1, H, W) with H, W ≥ 32; output float (N, num_classes) logits.
    """

    def __init__(self, num_classes: int, dropout: float) -> None:
        super().__init__()
        widths = (16, 32, 64, 128, 128)
        blocks: list[nn.Module] = []
        channels = 1
        for width in widths:
            block = (
                nn.Conv2d(channels, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(2),
            )
            blocks.append(nn.Sequential(*block))
            channels = width
        self.features = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(channels, num_classes),
        )

    def get_classifier(self) -> nn.Module:
        """The last linear layer, by the name timm gives it."""
        return self.head[-1]

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Which parameters belong to which layer, as timm's models say it."""
        return {"stem": r"^features\.0", "blocks": r"^features\.(\d+)"}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of a batch."""
        return self.head(self.features(images))
