"""Which engine a machine gets, loaded and warm."""

import numpy as np
import torch

from ctray.artefact.bundle import Bundle
from ctray.engine.base import Engine, EngineName
from ctray.engine.model import InputModel, restore_model


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
    # Here, not above: a process imports only the one it uses.
    if engine == "torch":
        from ctray.engine.torch_engine import TorchEngine

        loaded = TorchEngine(model, threads)
    else:
        from ctray.engine.openvino_engine import OpenVinoEngine

        loaded = OpenVinoEngine(model, size, threads, streams)
    loaded.logits(np.zeros((1, size, size), np.uint8))
    return loaded
