"""What `report.json` of a store holds, key by key."""

from typing import Any, TypedDict


class Totals(TypedDict):
    """Numbers of records, groups and patients of the whole set."""

    listed: int
    usable: int
    left_out: int
    groups: int
    patients: int
    patient_known: int


class Leaks(TypedDict):
    """Groups, and pairs of like pictures, that lie in more than one split; 0 of both is right."""

    groups: int
    pairs: int


class SplitCount(TypedDict):
    """What one split has of some records."""

    n: int
    groups: int


# `class` is a keyword, so that this one cannot be written as a class.
ClassRow = TypedDict(
    "ClassRow",
    {"class": str, "share": float, "n": int, "groups": int, "splits": dict[str, SplitCount]},
)
SplitRow = TypedDict(
    "SplitRow",
    {
        "class": str,
        "source": str,
        "n": int,
        "groups": int,
        "splits": dict[str, SplitCount],
        "off": dict[str, float],
    },
)


class LeftOutRow(TypedDict):
    """Records of one status by class; `no_class`: of no class of the store."""

    status: str
    n: int
    by_class: list[int]
    no_class: int


class SizeDot(TypedDict):
    """Images of one size in px, or around it."""

    width: int
    height: int
    n: int


class ImageSizes(TypedDict):
    """Sizes of the images in px; `binned`: many different ones are put in the cells of a grid."""

    different: int
    smallest: list[int]
    largest: list[int]
    binned: bool
    dots: list[SizeDot]


class Encoding(TypedDict):
    """Files of one format."""

    format: str
    bits: int
    colour: bool
    n: int
    mean_bytes: float


class GreyCurve(TypedDict):
    """Mean histogram of `n` images: shares of the pixels in each bin."""

    name: str
    n: int
    shares: list[float]


class Grey(TypedDict):
    """Grey levels of a sample of the stored images."""

    bins: int
    sampled: int
    most_a_class: int
    by_class: list[GreyCurve]
    by_source: list[GreyCurve]


class PairShown(TypedDict):
    """Two paths whose pictures are alike; `similarity` from 0 to 1."""

    first: str
    second: str
    kind: str
    conflict: bool
    flipped: bool
    similarity: float


class Duplicates(TypedDict):
    """Pairs of like pictures: how many, and the first of them."""

    n: int
    by_kind: dict[str, int]
    flipped: int
    shown: list[PairShown]


class Quarantined(TypedDict):
    """A record that was left out, and why."""

    path: str
    label: str
    reason: str


class Quarantine(TypedDict):
    """The records left out with one status: how many, and the first of them."""

    status: str
    n: int
    shown: list[Quarantined]


class WarningKind(TypedDict):
    """Warnings that differ in their numbers alone: how many, and the first of them."""

    n: int
    example: str
    path: str


class Warnings(TypedDict):
    """Warned records, the kinds of warnings, and the most frequent kinds."""

    n: int
    kinds: int
    shown: list[WarningKind]


class Ignored(TypedDict):
    """Files that nothing was made of: how many, and the first of them."""

    n: int
    shown: list[str]


class DataSummary(TypedDict):
    """All of `report.json`, key by key; `confounds` is as `Confounds`, with how it was judged."""

    name: str
    info: dict[str, str | list[str]]
    shares: dict[str, float]
    fingerprint: str
    synthetic: bool
    size: int
    classes: list[str]
    records: Totals
    leaks: Leaks
    class_table: list[ClassRow]
    left_out: list[LeftOutRow]
    image_sizes: ImageSizes
    encodings: list[Encoding]
    grey: Grey
    confounds: dict[str, Any]
    duplicates: Duplicates
    quarantine: list[Quarantine]
    warnings: Warnings
    notices: list[str]
    split_table: list[SplitRow]
    ignored: Ignored
