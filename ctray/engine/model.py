"""The model of a bundle in torch: what every engine is made from."""

import torch

from ctray.artefact.bundle import Bundle
from ctray.config import PreprocessSpec, Recipe
from ctray.models.backbones import build_model
from ctray.models.normalise import Normalise
from ctray.models.tta import with_tta


class InputModel(torch.nn.Module):
    """The device half of preprocessing and the model as one module: uint8 batch to logits.

    Attributes:
        image_size: side of its input, px.
        normalise: uint8 batch to the model's input.
        model: one pass of the network; `forward` may average several (the recipe's `tta`).
    """

    def __init__(self, spec: PreprocessSpec, model: torch.nn.Module, recipe: Recipe) -> None:
        super().__init__()
        self.image_size = spec.image_size
        self.normalise = Normalise(spec)
        self.model = model
        self.answer = with_tta(model, recipe.tta)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (N, H, W) to logits (N, classes)."""
        return self.answer(self.normalise(images))


def restore_model(bundle: Bundle) -> InputModel:
    """The bundle's model in evaluation mode, float32, on the CPU."""
    info = bundle.info
    model = build_model(info.backbone, len(info.classes), info.preprocess.image_size)
    model.load_state_dict(bundle.weights)
    return InputModel(info.preprocess, model, info.recipe).eval()
