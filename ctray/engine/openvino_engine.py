"""The OpenVINO engine: two to five times torch on a CPU (docs/decisions)."""

import os
import threading
import warnings

import numpy as np
import openvino as ov
import torch

from ctray.engine.model import InputModel


class OpenVinoEngine:
    """Compiles the model, with the device half of preprocessing inside, for this CPU."""

    name = "openvino"
    device = "cpu"

    def __init__(
        self, model: InputModel, image_size: int, threads: int | None, streams: int
    ) -> None:
        example = torch.zeros(2, image_size, image_size, dtype=torch.uint8)
        with warnings.catch_warnings():
            # OpenVINO traces with torch.jit, which torch announces the end of.
            warnings.simplefilter("ignore", FutureWarning)
            graph = ov.convert_model(model, example_input=example)
        graph.reshape([-1, image_size, image_size])
        core = ov.Core()
        # bf16 is a hint: a processor without it computes in float32. Pinning is off because it
        # puts the threads of two processes on the same cores.
        settings = {
            "INFERENCE_PRECISION_HINT": _precision(core),
            "INFERENCE_NUM_THREADS": threads or os.cpu_count() or 1,
            "NUM_STREAMS": streams,
            "ENABLE_CPU_PINNING": False,
        }
        self._compiled = core.compile_model(graph, "CPU", settings)
        # An infer request must not be used from two threads.
        self._local = threading.local()

    def logits(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W) to float32 (N, classes)."""
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled.create_infer_request()
        outputs = self._local.request.infer({0: np.ascontiguousarray(images)})
        return np.array(outputs[0], dtype=np.float32)


def _precision(core: ov.Core) -> str:
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if "BF16" in capabilities else "f32"
