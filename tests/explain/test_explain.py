"""`ctray explain`: what is in the picture, and what becomes of a folder of images."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from serve_kit import CLASSES, png, write_untrained
from typer.testing import CliRunner

from ctray.cli import app
from ctray.engine.batch import File
from ctray.errors import UserError
from ctray.explain.files import places
from ctray.explain.picture import BAR, HEAD, MARGIN, SIDE

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_untrained(tmp_path_factory.mktemp("explained"), seed=1)


def explain(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["explain", *map(str, arguments)])
    if done.exception is not None:
        raise done.exception
    return done.stdout


def parts(picture: np.ndarray, height: int, width: int) -> list[np.ndarray]:
    """The image, the evidence over it, and what is right of them."""
    rows = picture[HEAD : HEAD + height]
    left, right = MARGIN, 2 * MARGIN + width
    return [rows[:, left : left + width], rows[:, right : right + width], rows[:, right + width :]]


def test_the_picture_has_image_evidence_answer_and_a_colour_bar(
    bundle: Path, tmp_path: Path
) -> None:
    image, out = tmp_path / "image.png", tmp_path / "new" / "evidence.png"
    image.write_bytes(png(3, side=96))
    said = explain(bundle, image, "--out", out)
    predicted, figure = said.split(":")[0].split()
    assert predicted in CLASSES
    assert 1 / 3 <= float(figure) <= 1
    # A whole multiple of the small image.
    side = SIDE // 96 * 96
    picture = cv2.imread(str(out))
    assert picture.shape == (HEAD + side + MARGIN, 3 * MARGIN + 2 * side + BAR, 3)
    plain, evidence, bar = parts(picture, side, side)
    grey = cv2.resize(cv2.imread(str(image), 0), (side, side), interpolation=cv2.INTER_NEAREST)
    assert np.array_equal(plain, cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR))
    for coloured in (evidence, bar):
        assert np.ptp(coloured.astype(int), axis=2).max() > 50
    head = picture[: HEAD // 2]
    assert head.min() < 50, "the answer stands above the images"
    assert head.max() == 255


@pytest.mark.parametrize("shape", [(3000, 2400), (64, 1500), (1500, 64)])
def test_the_picture_fits_a_screen_whatever_the_image(
    shape: tuple[int, int], bundle: Path, tmp_path: Path
) -> None:
    ramp = np.linspace(0, 255, shape[0] * shape[1]).reshape(shape).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "image.png"), ramp)
    explain(bundle, tmp_path / "image.png", "--out", tmp_path / "evidence.png")
    height, width = cv2.imread(str(tmp_path / "evidence.png")).shape[:2]
    assert 500 <= width <= 1500
    assert height <= 800


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of images, a mask, a broken image and a table."""
    for place in ("a/images/1.png", "a/masks/1.png", "b/1.png"):
        (tmp_path / "data" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / place).write_bytes(png(len(place)))
    (tmp_path / "data" / "b" / "2.png").write_bytes(png(7)[:200])
    (tmp_path / "data" / "notes.csv").write_text("file,label\n")
    return tmp_path / "data"


def test_each_image_of_a_folder_gets_a_picture_or_a_line(
    folder: Path, bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "evidence"
    said = explain(bundle, folder, "--out", out)
    made = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert made == {"a/images/1.png", "b/1.png"}
    assert f"{folder / 'b' / '2.png'}: the PNG file is truncated" in said
    assert said.splitlines()[-1].startswith("2 explained, ")
    assert "left out 1 mask" in said
    with pytest.raises(UserError, match="is not empty"):
        explain(bundle, folder, "--out", out)


def test_an_unreadable_image_by_itself_is_an_error(
    folder: Path, bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"2\.png: the PNG file is truncated"):
        explain(bundle, folder / "b" / "2.png", "--out", tmp_path / "evidence.png")
    assert not (tmp_path / "evidence.png").exists()


@pytest.mark.parametrize(
    ("out", "several", "says"),
    [("e.png", True, "name a folder"), ("e.jpg", False, r"must end in \.png")],
)
def test_the_name_of_the_output_is_checked_before_any_work(
    out: str, several: bool, says: str, folder: Path
) -> None:
    images = (folder,) if several else (folder / "b" / "1.png",)
    with pytest.raises(UserError, match=says):
        explain("/no/bundle", *images, "--out", folder / out)


def test_no_two_pictures_have_one_name() -> None:
    names = ("x/1.png", "x/1.dcm", "x/1.jpg", "x/1", "y/1.png", "y/2.PNG")
    wanted = {str(file.path): str(place) for file, place in places(files(*names), Path("out"))}
    assert len(set(wanted.values())) == len(names)
    assert wanted["x/1.png"] == "out/x/1.png"
    assert wanted["x/1.dcm"] == "out/x/1.dcm.png"
    assert wanted["y/2.PNG"] == "out/y/2.PNG"
    # Of one folder, its own name is no part of theirs.
    assert places(files("x/1.png"), Path("out"))[0][1] == Path("out/1.png")
    assert places([], Path("out")) == []


def files(*names: str) -> list[File]:
    return [File(Path(name)) for name in names]
