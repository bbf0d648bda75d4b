"""What an engine is. Nothing here imports torch, so that a command line can name the engines."""

from typing import Literal, Protocol

import numpy as np

EngineName = Literal["auto", "openvino", "torch"]


class Engine(Protocol):
    """A loaded, warm model.

    Attributes:
        name: `openvino` or `torch`.
        device: `cpu` or `cuda`.
    """

    name: str
    device: str

    def logits(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, image_size, image_size) to float32 (N, classes); safe from several threads."""
        ...
