"""How long one image takes on an engine."""

import statistics
import time

import numpy as np

from ctray.engine.base import Engine

_WARM_UP = 10
_CALLS = 100


def latency_ms(engine: Engine, image_size: int) -> float:
    """Median milliseconds from one prepared image to its logits, batch 1, after a warm-up.

    The time of a convolution does not depend on what is in the image.
    """
    image = np.zeros((1, image_size, image_size), np.uint8)
    taken = []
    for _ in range(_WARM_UP + _CALLS):
        start = time.perf_counter()
        engine.logits(image)
        taken.append(time.perf_counter() - start)
    return 1e3 * statistics.median(taken[_WARM_UP:])
