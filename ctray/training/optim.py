"""What an optimizer step is made of: loss, parameter groups, learning rate, averaged weights."""

import copy
import math

import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn
from torch.nn import functional

from ctray.config import Recipe


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW without decay on norms and biases; earlier layers may learn slower.

    Every group has an `lr_scale`: the factor that `layer_decay` gives its layers.
    """
    if recipe.layer_decay == 1:
        groups = param_groups_weight_decay(model, recipe.weight_decay)
    else:
        groups = param_groups_layer_decay(
            model, recipe.weight_decay, layer_decay=recipe.layer_decay
        )
    for group in groups:
        group.setdefault("lr_scale", 1.0)
    # One kernel a step instead of some hundred.
    return torch.optim.AdamW(groups, lr=recipe.lr, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group to its share of `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def warmup_cosine(step: int, total: int, warmup: float) -> float:
    """Factor on the peak learning rate: linear warmup over a share of the steps, cosine to zero."""
    rising = max(1, round(total * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))


class Loss(nn.Module):
    """Cross entropy or focal loss against soft targets, a value a record.

    Lin et al., Focal Loss for Dense Object Detection, ICCV 2017.
    """

    weights: torch.Tensor

    def __init__(self, recipe: Recipe, counts: list[int]) -> None:
        """`counts`: training records of each class, in order."""
        super().__init__()
        self.smoothing, self.gamma = recipe.label_smoothing, recipe.focal_gamma
        weights = torch.ones(len(counts))
        if recipe.class_weights == "balanced":
            weights = sum(counts) / (len(counts) * torch.tensor(counts).clamp(min=1))
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Float (n, classes) and float (n, classes), rows that add up to 1, to float (n,)."""
        logs = functional.log_softmax(logits, dim=1)
        smooth = targets * (1 - self.smoothing) + self.smoothing / targets.shape[1]
        parts = -smooth * logs * self.weights
        if self.gamma:
            parts = parts * (1 - logs.exp()) ** self.gamma
        return parts.sum(dim=1)


class Average:
    """An exponential moving average of a model's weights and norm statistics.

    Attributes:
        model: the averaged copy, in evaluation mode.
    """

    def __init__(self, source: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(source).eval().requires_grad_(False)
        self._decay = decay
        pairs = zip(self.model.state_dict().values(), source.state_dict().values(), strict=True)
        both = list(pairs)
        self._floats = [(own, new) for own, new in both if own.is_floating_point()]
        self._counts = [(own, new) for own, new in both if not own.is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the source; young, it moves faster, or it would stay where it began."""
        decay = min(self._decay, (1 + step) / (10 + step))
        own, new = ([pair[side] for pair in self._floats] for side in (0, 1))
        torch._foreach_lerp_(own, new, 1 - decay)
        for mine, count in self._counts:
            mine.copy_(count)
