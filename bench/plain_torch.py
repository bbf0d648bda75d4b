"""Fine-tuning as a careful user writes it without a framework, on the CPU.

The peer of `time_to_accuracy.py`: a DataLoader that decodes and augments beside the training,
albumentations, timm, bf16 in channels_last, one cycle. Reads folders of one sub-folder a class.
Prints a JSON line an epoch, and ends after one whose accuracy is `--until` or better.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import numpy as np
import timm
import torch
from sklearn.metrics import f1_score
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset


class Images(Dataset[tuple[torch.Tensor, int]]):
    """The images below `root/CLASS/images`, transformed when they are asked for."""

    def __init__(self, root: Path, classes: list[str], transform: A.BasicTransform) -> None:
        self.transform = transform
        self.files = [
            (str(file), label)
            for label, name in enumerate(classes)
            for file in sorted((root / name / "images").iterdir())
        ]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        file, label = self.files[index]
        image = self.transform(image=cv2.imread(file, cv2.IMREAD_GRAYSCALE))["image"]
        return torch.from_numpy(image).unsqueeze(0), label


# Where the processor has none it is emulated, at a hundredth of the speed.
BF16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def inputs(images: torch.Tensor) -> torch.Tensor:
    """Model input as the weights of tf_efficientnet_lite0 saw it."""
    scaled = ((images.float() - 127) / 128).expand(-1, 3, -1, -1)
    return scaled.contiguous(memory_format=torch.channels_last)


def scores(model: torch.nn.Module, loader: DataLoader) -> tuple[float, float]:
    """Accuracy and macro-F1."""
    model.eval()
    truth, predicted = [], []
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=BF16):
        for images, labels in loader:
            predicted.append(model(inputs(images)).float().argmax(1).numpy())
            truth.append(labels.numpy())
    y, p = np.concatenate(truth), np.concatenate(predicted)
    return float((y == p).mean()), float(f1_score(y, p, average="macro"))


def arguments() -> argparse.Namespace:
    """The settings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", type=Path, help="state dict with timm's names")
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--bs", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--until", type=float, default=1.0)
    return parser.parse_args()


def main() -> None:
    """Train."""
    options = arguments()
    torch.manual_seed(options.seed)
    cv2.setNumThreads(1)
    size = options.size
    classes = sorted(place.name for place in options.train.iterdir() if place.is_dir())
    augment = A.Compose(
        [
            A.RandomResizedCrop(size=(size, size), scale=(0.8, 1.0)),
            A.HorizontalFlip(p=0.5),
            A.Affine(rotate=(-10, 10), translate_percent=0.05, p=0.7),
            A.RandomBrightnessContrast(p=0.5),
        ],
        seed=options.seed,
    )
    shrink = A.Resize(size, size, interpolation=cv2.INTER_AREA)
    model = timm.create_model(options.backbone, num_classes=len(classes))
    if options.weights:
        weights = torch.load(options.weights, weights_only=True)
        features = {k: v for k, v in weights.items() if not k.startswith(("classifier", "fc"))}
        model.load_state_dict(features, strict=False)
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), options.lr, weight_decay=0.02, fused=True)
    training = DataLoader(
        Images(options.train, classes, augment),
        options.bs,
        shuffle=True,
        drop_last=True,
        num_workers=options.workers,
        persistent_workers=True,
    )
    testing = DataLoader(
        Images(options.test, classes, shrink), 64, num_workers=1, persistent_workers=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.lr, total_steps=options.epochs * len(training), pct_start=0.25
    )
    begin = time.monotonic()
    for epoch in range(1, options.epochs + 1):
        start, count = time.monotonic(), 0
        model.train()
        for images, labels in training:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=BF16):
                loss = functional.cross_entropy(model(inputs(images)), labels, label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            count += len(images)
        seconds = time.monotonic() - start
        accuracy, macro_f1 = scores(model, testing)
        row = {
            "epoch": epoch,
            "train_s": round(seconds, 1),
            "ips": round(count / seconds, 1),
            "acc": round(accuracy, 4),
            "macro_f1": round(macro_f1, 4),
            "total_s": round(time.monotonic() - begin, 1),
        }
        print(json.dumps(row), flush=True)
        if accuracy >= options.until:
            break


if __name__ == "__main__":
    main()
