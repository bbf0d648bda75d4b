"""Evaluation, prediction and explanation of one trained bundle, through the command line."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import train_tiny
from sklearn.metrics import f1_score
from typer.testing import CliRunner, Result

from ctray.cli import app
from ctray.config import Recipe
from ctray.data.store import Store
from ctray.errors import UserError
from ctray.synthetic.folder import write_folder
from ctray.synthetic.phantom import PhantomSpec


def invoke(*arguments: object) -> Result:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_a_folder_is_scored_without_what_the_bundle_has_seen(
    run: Path, store: Store, images: Path, tmp_path: Path
) -> None:
    done = invoke("evaluate", run / "bundle", "--data", images, "--out", tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    trained, chosen, test = (len(store.records(split)) for split in ("train", "val", "test"))
    assert report["left_out"] == {"trained_on": trained, "chosen_on": chosen}
    assert report["n"] == test
    assert f"left out {trained} it was trained on and {chosen} that chose" in done.output
    assert report["synthetic"]
    frame = pd.read_parquet(tmp_path / "predictions.parquet")
    assert set(frame["id"]) == set(store.records("test")["id"])
    expected = f1_score(frame["label"], frame["predicted"], average="macro", zero_division=0)
    assert report["metrics"]["macro_f1"]["value"] == pytest.approx(expected)
    interval = report["metrics"]["accuracy"]
    assert interval["low"] <= (frame["label"] == frame["predicted"]).mean() <= interval["high"]
    assert "weighted" in done.output
    assert "support" in done.output


def test_a_store_is_scored_on_its_test_split_like_its_folder(
    run: Path, store: Store, images: Path, tmp_path: Path
) -> None:
    invoke("evaluate", run / "bundle", "--data", store.root, "--out", tmp_path / "store")
    invoke("evaluate", run / "bundle", "--data", images, "--out", tmp_path / "folder")
    frames = [
        pd.read_parquet(tmp_path / place / "predictions.parquet").set_index("file").sort_index()
        for place in ("store", "folder")
    ]
    # The stored pixels and the files' bytes take two ways to the same input.
    pd.testing.assert_frame_equal(*[frame.filter(like="p_") for frame in frames], atol=1e-6)


def test_training_records_are_scored_on_request_and_the_report_says_so(
    run: Path, images: Path, tmp_path: Path
) -> None:
    place = ("--data", images, "--out", tmp_path)
    done = invoke("evaluate", run / "bundle", *place, "--include-training")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["n"] == 320
    assert report["include_training"]
    assert "left out 0" in done.output


@pytest.mark.parametrize(
    ("change", "sentence"),
    [("unknown class", "'Tuberculosis' is not one the bundle knows"), ("seen", "nothing to score")],
)
def test_what_cannot_be_scored_is_one_sentence(
    run: Path, store: Store, images: Path, tmp_path: Path, change: str, sentence: str
) -> None:
    data = tmp_path / "data"
    if change == "seen":
        for record in store.records("train").head(4).to_dict("records"):
            place = data / record["label"] / Path(record["path"]).name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(images / record["path"], place)
    else:
        shutil.copytree(images / "Normal" / "images", data / "Tuberculosis")
    with pytest.raises(UserError, match=sentence):
        invoke("evaluate", run / "bundle", "--data", data, "--out", tmp_path / "report")
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_predict_answers_every_readable_file_and_names_the_others(
    run: Path, images: Path, tmp_path: Path, suffix: str
) -> None:
    bad = tmp_path / "renamed.png"
    bad.write_text("a text file")
    files = sorted((images / "COVID" / "images").iterdir())[:5]
    out = tmp_path / f"out.{suffix}"
    done = invoke("predict", run / "bundle", *files, bad, "--out", out)
    assert "5 answered, 1 with an error" in done.output
    read = {
        "csv": pd.read_csv,
        "parquet": pd.read_parquet,
        "jsonl": lambda path: pd.read_json(path, lines=True),
    }[suffix]
    frame = read(out)
    probabilities = [name for name in frame if name.startswith("p_")]
    assert list(frame.columns) == [
        "file", "predicted", "decision", "confidence", *probabilities, "error", "warning",
    ]  # fmt: skip
    assert len(probabilities) == 4
    good, failed = frame[:5], frame.iloc[5]
    assert np.allclose(good[probabilities].sum(axis=1), 1)
    assert (good["decision"] == "answer").all()
    assert good["error"].isna().all()
    assert "not an image" in failed["error"]
    assert pd.isna(failed["predicted"])


def test_a_folder_is_predicted_without_its_masks(run: Path, images: Path, tmp_path: Path) -> None:
    invoke("predict", run / "bundle", images / "COVID", "--out", tmp_path / "out.csv")
    frame = pd.read_csv(tmp_path / "out.csv")
    assert len(frame) == 80
    assert not frame["file"].str.contains("masks").any()


def test_grad_cam_finds_what_was_drawn(store: Store, tiny_recipe: Recipe, tmp_path: Path) -> None:
    """Evidence for a finding lies more often on the finding than chance would have it."""
    from ctray.artefact.bundle import Bundle
    from ctray.explain.gradcam import Evidence

    # Longer than the session's run: where a model looks that has learned little is left to chance.
    recipe = tiny_recipe.model_copy(update={"epochs": 12, "evaluate_every": None})
    train_tiny(recipe, store, tmp_path)
    evidence = Evidence(Bundle.load(str(tmp_path / "bundle")))
    data = write_folder(PhantomSpec(images_per_class=12, size=96, seed=77), tmp_path / "new")
    ratios = []
    for mask_file in sorted((data / "Lung_Opacity" / "masks").iterdir()):
        mask = cv2.imread(str(mask_file), 0) > 0
        image = cv2.imread(str(data / "Lung_Opacity" / "images" / mask_file.name), 0)
        heat = evidence.heatmap(image, "Lung_Opacity")
        assert heat.shape == image.shape
        assert 0 <= heat.min() <= heat.max() <= 1
        if heat.sum() > 0:
            ratios.append((heat * mask).sum() / heat.sum() / mask.mean())
    assert np.median(ratios) > 1.2


def test_wrong_output_names_are_refused_before_any_work(run: Path, images: Path) -> None:
    with pytest.raises(UserError, match=r"must end in \.csv, \.parquet, \.jsonl"):
        invoke("predict", run / "bundle", images, "--out", "out.xlsx")
    with pytest.raises(UserError, match=r"must end in \.png"):
        invoke("explain", run / "bundle", images / "README.md", "--out", "out.jpg")
    with pytest.raises(UserError, match="no such file or folder"):
        invoke("predict", run / "bundle", "/nowhere", "--out", "out.csv")


@pytest.mark.fast
@pytest.mark.parametrize(
    ("split", "sentence"),
    [("nope", "'nope' must be train, val, test or all"), ("val", "'val' needs a store; .* is not")],
)
def test_a_wrong_split_is_said_before_the_bundle_is_opened(
    tmp_path: Path, split: str, sentence: str
) -> None:
    places = ("/no/bundle", "--data", tmp_path, "--out", tmp_path / "report")
    with pytest.raises(UserError, match=sentence) as caught:
        invoke("evaluate", *places, "--split", split)
    assert caught.value.arguments == ("split",)


@pytest.mark.fast
def test_a_report_that_cannot_be_written_is_said_first(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    data = write_folder(PhantomSpec(images_per_class=1, size=64), tmp_path / "data")
    for out in (tmp_path / "file", tmp_path / "file" / "report"):
        with pytest.raises(UserError, match=r"file is a file, not a folder"):
            invoke("evaluate", "/no/bundle", "--data", data, "--out", out)
