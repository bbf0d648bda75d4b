"""How long one image takes on an engine."""

import statistics
import time

import numpy as np

from ctray.engine.base import Engine

WARM_UP, CALLS = 10, 100


def latency_ms(engine: Engine, image_size: int) -> float:
    """Median milliseconds from one prepared image to its logits, batch 1, after a warm-up.

    The time of a convolution does not depend on what is in the image.
    """
    image = np.zeros((1, image_size, image_size), np.uint8)
    taken = []
    for _ in range(WARM_UP + CALLS):
        start = time.perf_counter()
        engine.logits(image)
        taken.append(time.perf_counter() - start)
    return 1e3 * statistics.median(taken[WARM_UP:])
