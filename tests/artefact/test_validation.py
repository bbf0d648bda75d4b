"""A trained bundle holds what its model said of the validation split, record by record."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional

from ctray.artefact.bundle import Bundle
from ctray.data.image.preprocess import stored_to_input
from ctray.data.store import Store
from ctray.engine.model import restore_model


def test_its_records_are_those_of_the_store_in_order(run: Path, store: Store) -> None:
    said = Bundle.load(str(run / "bundle")).validation
    assert said is not None
    records = store.records("val")
    assert said.ids == tuple(records["id"])
    assert np.array_equal(said.labels, store.labels(records))
    assert np.array_equal(said.groups, pd.factorize(records["group"])[0])
    assert said.logits.shape == (len(records), len(store.classes))


def test_its_logits_are_those_behind_the_metrics(run: Path) -> None:
    bundle = Bundle.load(str(run / "bundle"))
    said = bundle.validation
    assert said is not None
    loss = functional.cross_entropy(torch.from_numpy(said.logits), torch.from_numpy(said.labels))
    assert float(loss) == pytest.approx(bundle.info.metrics["val_loss"], rel=1e-5)
    right = (said.logits.argmax(axis=1) == said.labels).mean()
    assert right == pytest.approx(bundle.info.metrics["val_accuracy"])


def test_its_logits_are_those_of_its_weights(run: Path, store: Store) -> None:
    bundle = Bundle.load(str(run / "bundle"))
    said = bundle.validation
    assert said is not None
    pixels = store.images(store.records("val"))
    inputs = np.stack([stored_to_input(image, bundle.info.preprocess) for image in pixels])
    with torch.inference_mode():
        logits = restore_model(bundle)(torch.from_numpy(inputs)).numpy()
    # The evaluation in the training computed in bf16, where the processor has it.
    assert np.abs(logits - said.logits).max() < 0.1 * np.abs(logits).max()
