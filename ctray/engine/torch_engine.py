"""The torch engine: CUDA, or a CPU on request."""

import numpy as np
import torch

from ctray.engine.model import InputModel
from ctray.models.precision import autocast


class TorchEngine:
    """Runs the model in bf16 where the device gains from it, channels last."""

    name = "torch"

    def __init__(self, model: InputModel, threads: int | None) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        if threads is not None:
            torch.set_num_threads(threads)
        self._model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def logits(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W) to float32 (N, classes)."""
        batch = torch.from_numpy(np.ascontiguousarray(images))
        with torch.inference_mode(), autocast(self.device, "auto"):
            return self._model(batch.to(self.device)).float().cpu().numpy()
