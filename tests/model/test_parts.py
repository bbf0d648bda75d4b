"""The parts of a training step: mixing, loss, optimizer, averaged weights, depthwise gradients."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from ctray.config import RECIPES, Recipe, recipe_file
from ctray.data.batches import share_of
from ctray.errors import UserError
from ctray.models.depthwise import DepthwiseConv2d, speed_up_depthwise
from ctray.models.small_cnn import SmallCNN
from ctray.models.tta import with_tta
from ctray.training.mixing import Mixer
from ctray.training.optim import Average, Loss, build_optimizer, set_lr, warmup_cosine

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("batch_size", [1, 7, 16, 32])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_shares_cover_a_batch_and_keep_pairs_together(batch_size: int, world: int) -> None:
    shares = [share_of(batch_size, rank, world) for rank in range(world)]
    places = [place for share in shares for place in range(batch_size)[share]]
    assert places == list(range(batch_size))
    assert all(share.start % 2 == 0 for share in shares)
    sizes = [share.stop - share.start for share in shares if share.stop > share.start]
    assert max(sizes) - min(sizes) <= 3


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_mixing_is_the_same_at_any_number_of_workers(mixup: float, cutmix: float) -> None:
    images = torch.rand(16, 12, 12) * 255
    targets = functional.one_hot(torch.arange(16) % 4, 4).float()
    for step in range(6):
        whole, soft = Mixer(mixup, cutmix, 3, 16, slice(0, 16))(images, targets, step)
        for world in (2, 3):
            for rank in range(world):
                share = share_of(16, rank, world)
                mixer = Mixer(mixup, cutmix, 3, 16, share)
                part, part_soft = mixer(images[share], targets[share], step)
                assert torch.equal(part, whole[share])
                assert torch.equal(part_soft, soft[share])
        assert torch.allclose(soft.sum(dim=1), torch.ones(16))


def test_mixup_and_cutmix_give_each_image_its_share_of_the_target() -> None:
    images = torch.stack([torch.full((20, 20), float(255 * (place % 2))) for place in range(8)])
    targets = functional.one_hot(torch.arange(8) % 2, 2).float()
    for mixer in (Mixer(0.5, 0.0, 1, 8, slice(0, 8)), Mixer(0.0, 1.0, 1, 8, slice(0, 8))):
        shares = []
        for step in range(40):
            mixed, soft = mixer(images, targets, step)
            # White belongs to class 1: the mean brightness is its share.
            assert torch.allclose(mixed.mean(dim=(1, 2)) / 255, soft[:, 1], atol=1e-5)
            shares += soft[::2, 0].tolist()
        assert np.std(shares) > 0.1, "the shares differ from pair to pair"
        assert min(shares) >= 0
        assert max(shares) <= 1
    off = Mixer(0.0, 0.0, 1, 8, slice(0, 8))
    assert off(images, targets, 0) == (images, targets)


def test_the_loss_is_cross_entropy_and_focal_loss_looks_away_from_the_easy() -> None:
    logits = torch.randn(10, 3)
    labels = torch.arange(10) % 3
    targets = functional.one_hot(labels, 3).float()
    plain = Loss(Recipe(label_smoothing=0.1), [5, 5, 5])(logits, targets)
    expected = functional.cross_entropy(logits, labels, label_smoothing=0.1, reduction="none")
    assert torch.allclose(plain, expected, atol=1e-6)
    weighted = Loss(Recipe(label_smoothing=0.0, class_weights="balanced"), [8, 4, 4])
    ratio = weighted(logits, targets) / functional.cross_entropy(logits, labels, reduction="none")
    assert torch.allclose(ratio, torch.tensor([16 / 24, 16 / 12, 16 / 12])[labels], atol=1e-5)
    focal = Loss(Recipe(label_smoothing=0.0, focal_gamma=2.0), [5, 5, 5])
    sure, unsure = torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([[0.1, 0.0, 0.0]])
    assert focal(sure, targets[:1]) < 1e-6
    p = unsure.softmax(dim=1)[0, 0]
    assert float(focal(unsure, targets[:1])) == pytest.approx(float(-((1 - p) ** 2) * p.log()))


def test_norms_and_biases_do_not_decay_and_early_layers_learn_slower() -> None:
    model = timm.create_model("tf_efficientnet_lite0", num_classes=4)
    optimizer = build_optimizer(model, Recipe(weight_decay=0.1, layer_decay=0.8))
    scales = {}
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)
            scales[names[parameter]] = group["lr_scale"]
    assert len(scales) == len(names), "every parameter is in one group"
    assert scales["conv_stem.weight"] < scales["blocks.3.0.conv_pw.weight"] < 1
    assert scales["classifier.weight"] == 1
    set_lr(optimizer, 0.5)
    assert max(group["lr"] for group in optimizer.param_groups) == 0.5
    plain = build_optimizer(SmallCNN(4, 0.0), Recipe())
    assert {group["lr_scale"] for group in plain.param_groups} == {1.0}


def test_the_schedule_rises_then_falls_to_nothing() -> None:
    factors = [warmup_cosine(step, 100, 0.1) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == 1.0
    assert factors[9:] == sorted(factors[9:], reverse=True)
    assert factors[-1] < 0.001


def test_the_average_follows_the_weights_and_the_norms() -> None:
    model = SmallCNN(4, 0.0)
    average = Average(model, 0.9)
    before = {name: value.clone() for name, value in average.model.state_dict().items()}
    with torch.no_grad():
        for value in model.state_dict().values():
            value += 1
    average.update(1000)
    for name, value in average.model.state_dict().items():
        moved = 0.1 if value.is_floating_point() else 1
        assert torch.allclose(value - before[name], torch.full_like(value, moved), atol=1e-5), name
    average.update(0)
    first = average.model.head[3].weight - before["head.3.weight"]
    assert torch.allclose(first, torch.full_like(first, 1 - 0.9 * 0.1), atol=1e-5), "young: fast"
    assert not average.model.training


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "efficientnet_b0"])
def test_faster_depthwise_gradients_are_the_same_gradients(name: str) -> None:
    model = timm.create_model(name, num_classes=4)
    names = list(model.state_dict())
    plain = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    speed_up_depthwise(model)
    fast = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert list(model.state_dict()) == names
    pairs = [(a, b) for a, b in zip(plain, fast, strict=True) if isinstance(b, DepthwiseConv2d)]
    assert len(pairs) > 10
    assert {max(conv.stride) for _, conv in pairs} == {1, 2}
    torch.manual_seed(0)
    for old, new in pairs:
        images = torch.randn(2, old.in_channels, 14, 13)
        grads = []
        for conv, bf16 in ((old, False), (new, True)):
            conv.weight.grad = None
            inputs = images.contiguous(memory_format=torch.channels_last).requires_grad_()
            inputs.grad = None
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                out = conv(inputs)
            outer = torch.linspace(-1, 1, out.numel()).reshape(out.shape)
            out.backward(outer.to(out.dtype))
            grads.append((out.detach().float(), inputs.grad, conv.weight.grad))
        for plain_value, fast_value in zip(*grads, strict=True):
            error = (plain_value - fast_value).norm() / plain_value.norm()
            assert error < 0.02, (old, error)


def test_faster_depthwise_convolutions_answer_alike_without_gradients() -> None:
    model = timm.create_model("tf_efficientnet_lite0", num_classes=4).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        before = model(images)
        speed_up_depthwise(model)
        assert torch.equal(model(images), before)


def test_a_flipped_image_gets_the_same_answer_with_tta() -> None:
    model = SmallCNN(4, 0.0).eval()
    images = torch.randn(2, 1, 64, 64)
    with torch.inference_mode():
        both = with_tta(model, "flip")
        assert torch.allclose(both(images), both(images.flip(3)), atol=1e-5)
        assert torch.allclose(both(images), (model(images) + model(images.flip(3))) / 2)
        assert with_tta(model, "none") is model


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_recipe_is_valid(file: Path) -> None:
    Recipe.load(file)


def test_the_defaults_are_the_recipe_default() -> None:
    assert Recipe.load(recipe_file("default")) == Recipe()


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown recipe 'fats'; did you mean 'fast'"):
        recipe_file("fats")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"epochs": 2, "freeze_epochs": 3}, "freeze_epochs=3 is more than epochs=2"),
        ({"batch_size": 15, "mixup": 0.2}, "mixing takes pairs: batch_size=15 must be even"),
    ],
)
def test_settings_that_do_not_fit_together_are_one_sentence(
    settings: dict[str, object], sentence: str
) -> None:
    with pytest.raises(UserError, match=f"^{sentence}"):
        Recipe.load(None, settings)
