"""What the augmentation does, as a picture: the same images under every policy.

A policy and a strength say little until they are seen. The tiles are the very pixels that training
makes of these records with this seed in this epoch; only the picture around them is made here.
"""

import textwrap
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ctray.config import AugmentConfig, AugmentPolicy, PreprocessSpec
from ctray.data.augment import Augmenter, record_key, settings
from ctray.data.image.preprocess import prepared
from ctray.data.store import Store
from ctray.errors import UserError

COLUMNS = 8
# The row of a recipe that sets single transforms itself.
YOURS = "yours"
# On paper, in inches: a tile's side, the space between tiles, at the left for the names of the
# rows, and a line of text. So the text keeps its proportion to the tiles at any image size.
_TILE, _GAP, _LEFT, _LINE = 1.5, 0.05, 1.05, 0.2
# Smaller tiles are shown at a whole multiple of their size.
_LEAST_PX = 120


def preview_records(store: Store, seed: int) -> pd.DataFrame:
    """Up to eight rows of the training split: classes in turn, then sorted by class.

    Their index is the row number in the split; the same seed picks the same rows.

    Raises:
        UserError: nothing is in the training split.
    """
    records = store.records("train")
    if records.empty:
        raise UserError(f"the store {store.root} has no training records to preview")
    shuffled = records.sample(frac=1, random_state=seed)
    turns = shuffled.groupby("label").cumcount()
    chosen = turns.to_frame("turn").assign(label=shuffled["label"])
    first = chosen.sort_values(["turn", "label"]).head(COLUMNS)
    return records.loc[first.sort_values(["label", "turn"]).index]


def preview_configs(config: AugmentConfig) -> dict[str, AugmentConfig]:
    """The rows: every policy at this strength, and the config where it does something else."""
    rows = {
        policy: AugmentConfig(policy=policy, strength=config.strength)
        for policy in get_args(AugmentPolicy)
    }
    if settings(config) != settings(rows[config.policy]):
        rows[YOURS] = config
    return rows


def preview_tiles(
    store: Store,
    records: pd.DataFrame,
    config: AugmentConfig,
    spec: PreprocessSpec,
    seed: int,
    epoch: int,
) -> dict[str, np.ndarray]:
    """What training makes of these records, under every policy.

    Args:
        store: where the images are.
        records: rows of the store, see `preview_records`.
        config: gives the strength, and a last row `yours` if it sets single transforms.
        spec: of the run.
        seed: of the run.
        epoch: from 0.

    Returns:
        Row name to uint8 (len(records), image_size, image_size).
    """
    ready = [prepared(image, spec) for image in store.images(records)]
    keys = np.array([record_key(seed, epoch, id_) for id_ in records["id"]], np.uint64)
    return {
        name: Augmenter(row, spec.image_size).batch(ready, keys)
        for name, row in preview_configs(config).items()
    }


def draw_preview(
    store: Store, config: AugmentConfig, spec: PreprocessSpec, seed: int, epoch: int, out: Path
) -> None:
    """Write a PNG: one column an image of the training split, one row a policy.

    Each tile is drawn pixel by pixel (small ones at a whole multiple). The recipe's own row is in
    bold.

    Args:
        store: where the images are.
        config: the recipe's augmentation.
        spec: of the run.
        seed: of the run; also picks the images.
        epoch: from 0.
        out: the file to write.

    Raises:
        UserError: nothing is in the training split.
    """
    records = preview_records(store, seed)
    tiles = preview_tiles(store, records, config, spec, seed, epoch)
    title = (
        f"Training images at augmentation strength {config.strength:g} "
        f"(seed {seed}, epoch {epoch}, {spec.image_size} px, tone {spec.tone})"
    )
    if YOURS in tiles:
        title += f"; {YOURS}: {config.policy} with {_explicit(config)}"
    bold = YOURS if YOURS in tiles else config.policy
    figure = _figure(tiles, records["label"].tolist(), bold, title)
    figure.savefig(out, dpi=figure.dpi)


def _explicit(config: AugmentConfig) -> str:
    """What is set beside policy and strength, as in a recipe: `noise.p=1.0, crop.area=0.9`."""
    groups = config.model_dump(exclude_none=True, exclude={"policy", "strength"})
    return ", ".join(
        f"{group}.{name}={value:g}"
        for group, values in groups.items()
        for name, value in values.items()
    )


def _figure(tiles: dict[str, np.ndarray], labels: list[str], bold: str, title: str) -> Figure:
    """The tiles with their names; a pixel of a tile is a whole number of the figure's."""
    size = next(iter(tiles.values())).shape[1]
    times = -(-_LEAST_PX // size)
    dpi = size * times / _TILE
    gap = round(_GAP * dpi)
    mosaic = _mosaic(list(tiles.values()), times, gap)
    names = [textwrap.fill(label, 16) for label in labels]
    # About twelve letters an inch fit at this size of text.
    head = textwrap.wrap(title, int(12 * (_LEFT + mosaic.shape[1] / dpi)))
    left, right = round(_LEFT * dpi), gap
    top = round((len(head) + 1) * _LINE * dpi)
    bottom = round((max(name.count("\n") for name in names) + 2) * _LINE * dpi)
    height, width = mosaic.shape
    wide, high = left + width + right, top + height + bottom
    figure = Figure(figsize=(wide / dpi, high / dpi), dpi=dpi)
    # As colours: through a map of greys some would come out one level darker.
    figure.figimage(np.dstack([mosaic] * 3), left, bottom, origin="upper")
    # Only for the names: in pixels of the mosaic, its top left corner at 0.
    axes = figure.add_axes((left / wide, bottom / high, width / wide, height / high))
    axes.set(xlim=(0, width), ylim=(height, 0), facecolor="none")
    step = size * times + gap
    columns, rows = (np.arange(n) * step + (step - gap) / 2 for n in (len(labels), len(tiles)))
    axes.set_xticks(columns, names, fontsize=11, parse_math=False)
    axes.set_yticks(rows, list(tiles), fontsize=12)
    axes.get_yticklabels()[list(tiles).index(bold)].set_fontweight("bold")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    middle = (high - top / 2) / high
    figure.suptitle("\n".join(head), y=middle, va="center", fontsize=12, parse_math=False)
    return figure


def _mosaic(rows: list[np.ndarray], times: int, gap: int) -> np.ndarray:
    """Tiles of n rows beside each other on white: uint8 (H, W), each pixel `times` times."""
    count, size, _ = rows[0].shape
    step = size * times + gap
    canvas = np.full((len(rows) * step - gap, count * step - gap), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, tile in enumerate(row):
            place = canvas[y * step : y * step + size * times, x * step : x * step + size * times]
            place[:] = tile.repeat(times, axis=0).repeat(times, axis=1)
    return canvas
