"""COVID-QU-Ex: `Train`, `Val` and `Test` with three classes, each with `images` and `lung masks`.

https://www.kaggle.com/datasets/anasmohammedtahir/covidqu
"""

import re
from pathlib import PurePosixPath

from ctray.data.ingest.downloads.tree import Download, Entry, Tree, labels_of

_FILE = re.compile(
    r"(?P<part>(?:.*/)?)(?P<split>train|val|test)/(?P<label>COVID-19|Non-COVID|Normal)/"
    r"(?P<kind>images|lung masks|infection masks)/(?P<name>[^/]+)",
    re.IGNORECASE,
)
_WHOLE, _SOME = "Lung Segmentation Data", "infection segmentation data"


def recognise(tree: Tree) -> Download | None:
    """The images of Infection Segmentation Data are some of those of Lung Segmentation Data."""
    matches = [match for name in tree.files if (match := _FILE.fullmatch(name))]
    masks = {
        _place(match): match[0] for match in matches if match["kind"].casefold() == "lung masks"
    }
    images = [match for match in matches if match["kind"].casefold() == "images"]
    if not masks or not images:
        return None
    whole = {
        (match["label"], match["name"]) for match in images if _SOME not in match["part"].casefold()
    }
    entries = tuple(
        Entry(
            name=match[0],
            file=match[0],
            findings=(match["label"],),
            split=match["split"].casefold(),
            mask=masks.get(_place(match), ""),
            part=_WHOLE
            if _SOME in match["part"].casefold() and (match["label"], match["name"]) in whole
            else "",
        )
        for match in images
    )
    roles = {"label": "the folder", "split": "the folders Train, Val and Test"}
    return Download(entries, {}, roles, labels_of(entries))


def _place(match: re.Match[str]) -> tuple[str, str, str, str]:
    """What an image and its mask have in common."""
    return match["part"], match["split"], match["label"], PurePosixPath(match["name"]).stem
