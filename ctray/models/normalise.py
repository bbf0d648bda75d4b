"""The device half of preprocessing: uint8 batch to model input."""

import torch

from ctray.config import PreprocessSpec


class Normalise(torch.nn.Module):
    """Device half: uint8 (N, H, W) to float32 (N, channels, H, W) with the spec's mean and std."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, spec: PreprocessSpec) -> None:
        super().__init__()
        shape = (1, spec.channels, 1, 1)
        self.register_buffer("mean", torch.tensor(spec.mean).reshape(shape), persistent=False)
        self.register_buffer("scale", 1.0 / torch.tensor(spec.std).reshape(shape), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Copy the grey channel `channels` times and scale it."""
        return (images.unsqueeze(1).float() - self.mean) * self.scale
