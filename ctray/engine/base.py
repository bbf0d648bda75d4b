"""What an engine is, and which one a machine gets."""

from typing import Literal, Protocol

import numpy as np
import torch

from ctray.artefact.bundle import Bundle
from ctray.config import PreprocessSpec, Recipe
from ctray.models.backbones import build_model
from ctray.models.normalise import Normalise
from ctray.models.tta import with_tta

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


def load_engine(
    bundle: Bundle, engine: EngineName = "auto", threads: int | None = None, streams: int = 1
) -> Engine:
    """Build the engine for this machine and run it once, so that its first answer is quick.

    Args:
        bundle: a loaded bundle.
        engine: `auto` is torch where CUDA is, otherwise OpenVINO.
        threads: CPU threads in all; all of the machine's when unset.
        streams: requests that OpenVINO works on at the same time.
    """
    return start_engine(restore_model(bundle), engine, threads, streams)


def start_engine(
    model: InputModel, engine: EngineName = "auto", threads: int | None = None, streams: int = 1
) -> Engine:
    """As `load_engine`, of a model in evaluation mode on the CPU."""
    if engine == "auto":
        engine = "torch" if torch.cuda.is_available() else "openvino"
    size = model.image_size
    loaded: Engine
    if engine == "torch":
        from ctray.engine.torch_engine import TorchEngine

        loaded = TorchEngine(model, threads)
    else:
        from ctray.engine.openvino_engine import OpenVinoEngine

        loaded = OpenVinoEngine(model, size, threads, streams)
    loaded.logits(np.zeros((1, size, size), np.uint8))
    return loaded
