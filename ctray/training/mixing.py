"""Mixup and CutMix, the same at any number of workers.

Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018; Yun et al., CutMix, ICCV 2019.
Neighbours in the global batch (places 0 and 1, 2 and 3 …) are mixed with each other: a worker has
both, whatever its share, and every draw follows from (seed, step, pair).
"""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Mixer:
    """Mixes one worker's share of each batch.

    Attributes:
        mixup: alpha of the Beta distribution of the shares; 0: never.
        cutmix: the same; with both, each step takes one of them at random.
        seed: of the run.
        batch_size: of the global batch, even.
        share: the worker's places in it.
    """

    mixup: float
    cutmix: float
    seed: int
    batch_size: int
    share: slice

    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor, step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix a batch.

        Args:
            images: float (n, S, S).
            targets: float (n, classes), rows that add up to 1.
            step: of the run.

        Returns:
            The same shapes; of each image its own share and the rest of its neighbour's.
        """
        if not (self.mixup or self.cutmix):
            return images, targets
        generator = np.random.default_rng([self.seed, step])
        cut = bool(self.cutmix) and (not self.mixup or generator.random() < 0.5)
        alpha = self.cutmix if cut else self.mixup
        # Drawn for the whole batch, so that every worker draws alike.
        shares = np.repeat(generator.beta(alpha, alpha, self.batch_size // 2), 2)
        centres = np.repeat(generator.random((self.batch_size // 2, 2)), 2, axis=0)
        kept = torch.from_numpy(shares[self.share]).to(images)
        partner = torch.arange(len(images), device=images.device) ^ 1
        if cut:
            own = torch.from_numpy(centres[self.share]).to(images)
            outside = _outside(kept, own, images.shape[1])
            images = torch.where(outside, images, images[partner])
            kept = outside.float().mean(dim=(1, 2))
        else:
            weight = kept[:, None, None]
            images = weight * images + (1 - weight) * images[partner]
        weight = kept[:, None]
        return images, weight * targets + (1 - weight) * targets[partner]


def _outside(kept: torch.Tensor, centres: torch.Tensor, side: int) -> torch.Tensor:
    """Bool (n, side, side): what of each image stays; a box about its centre does not."""
    half = (1 - kept).sqrt()[:, None] / 2
    low, high = (centres - half) * side, (centres + half) * side
    pixels = torch.arange(side, device=kept.device) + 0.5
    inside = (pixels >= low[..., None]) & (pixels < high[..., None])
    return ~(inside[:, 0, :, None] & inside[:, 1, None, :])
