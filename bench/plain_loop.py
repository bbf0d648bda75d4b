"""A training loop as one writes it without a framework: one process, the images in memory.

The peer of `train_speed.py`, which starts it in a process of its own. It takes the same steps as
ctray (timm model, cross entropy with label smoothing, clipped gradients, AdamW, a cosine, averaged
weights) on the same images, and leaves out whatever is not needed for them: the images are resized
before the clock starts and are not augmented, nothing is evaluated, nothing is saved. `--fp32` is
the loop of somebody who has not heard of bf16 and channels_last. bf16 is left out where the
processor would emulate it, at a hundredth of the speed. Prints images a second.
"""

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import timm
import torch
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
WARM_UP = 5


def batches(count: int, size: int) -> Iterator[torch.Tensor]:
    """Places of the images of each batch, epoch after epoch in new order."""
    while True:
        order = torch.randperm(count)
        yield from order[: count // size * size].split(size)


def main() -> None:
    """Train for some seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help=".npz of images, uint8 (N, S, S), and labels")
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--fp32", action="store_true", help="float32, channels first")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count() or 1)

    data = np.load(options.data)
    images, labels = torch.from_numpy(data["images"]), torch.from_numpy(data["labels"])
    computes_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    bf16 = computes_bf16 and not options.fp32
    layout = torch.contiguous_format if options.fp32 else torch.channels_last
    model = timm.create_model(options.backbone, num_classes=int(labels.max()) + 1)
    model = model.to(memory_format=layout).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.02, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10_000)
    average = get_ema_multi_avg_fn(0.99)
    averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    mean = torch.tensor(IMAGENET_MEAN).reshape(1, 3, 1, 1)
    scale = 1 / torch.tensor(IMAGENET_STD).reshape(1, 3, 1, 1)

    start = 0.0
    for step, chosen in enumerate(batches(len(images), options.batch)):
        if step == WARM_UP:
            start = time.perf_counter()
        inputs = (images[chosen].unsqueeze(1).float() - mean) * scale
        inputs = inputs.contiguous(memory_format=layout)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            logits = model(inputs)
        loss = functional.cross_entropy(logits.float(), labels[chosen], label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        averaged.update_parameters(model)
        elapsed = time.perf_counter() - start
        if start and elapsed >= options.seconds:
            print((step + 1 - WARM_UP) * options.batch / elapsed)
            break


if __name__ == "__main__":
    main()
