"""`ctray explain`: a picture of the evidence for each of many image files."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctray import storage
from ctray.data.image.dispatch import decode_picture
from ctray.data.image.picture import ImageError
from ctray.data.image.preprocess import to_input
from ctray.decision.prediction import Prediction
from ctray.engine.batch import File
from ctray.engine.predictor import Predictor
from ctray.explain.gradcam import Evidence
from ctray.explain.picture import draw

_PNG = ".png"


@dataclass(frozen=True)
class Explained:
    """What became of one file.

    Attributes:
        file: as it was named.
        picture: where its picture was written.
        prediction: None where there is an error; then there is no picture.
        error: the reason; "" without one.
        warnings: of reading the image.
    """

    file: Path
    picture: Path
    prediction: Prediction | None
    error: str = ""
    warnings: tuple[str, ...] = ()


def explain_files(predictor: Predictor, wanted: Iterable[tuple[File, Path]]) -> Iterator[Explained]:
    """Write a PNG for each file that can be read; folders are made.

    Args:
        predictor: whose answers are explained.
        wanted: each file, and where its picture goes.

    Raises:
        UserError: the bundle's backbone has no convolution map.
    """
    bundle = predictor.bundle
    evidence = Evidence(bundle)
    for file, place in wanted:
        try:
            picture = decode_picture(file.data(), file.path.name)
        except ImageError as error:
            yield Explained(file.path, place, None, str(error))
            continue
        image = picture.pixels
        prediction = predictor.predict([to_input(image, bundle.info.preprocess)])[0]
        heat = evidence.heatmap(image, prediction.predicted)
        model = f"{bundle.name} {bundle.version}"
        storage.write_bytes(str(place), draw(image, heat, prediction, bundle.info, model))
        yield Explained(file.path, place, prediction, warnings=picture.warnings)


def places(files: Sequence[File], folder: Path) -> list[tuple[File, Path]]:
    """Each file, and where its picture goes: as they lie beside each other, so do the pictures.

    A picture has the file's whole name, so that `1.dcm` and `1.jpg` do not meet: `1.dcm.png`.
    """
    absolute = [Path(os.path.abspath(file.path)) for file in files]
    root = os.path.commonpath([file.parent for file in absolute]) if files else ""
    taken: dict[Path, File] = {}
    for file, path in zip(files, absolute, strict=True):
        place = folder / path.relative_to(root)
        while place.suffix.lower() != _PNG or place in taken:
            place = place.with_name(place.name + _PNG)
        taken[place] = file
    return [(file, place) for place, file in taken.items()]
