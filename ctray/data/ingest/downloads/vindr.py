"""VinDr-CXR: three readers an image, as Kaggle's table of boxes or PhysioNet's columns of 0 and 1.

https://physionet.org/content/vindr-cxr and
https://www.kaggle.com/c/vinbigdata-chest-xray-abnormalities-detection
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from ctray.data.ingest.downloads.tree import (
    Download,
    Entry,
    Tree,
    entry_of,
    grouped,
    labels_of,
    latest,
)

# Also as an office program saves it.
_YES = ("1", "1.0", "1.00", "true")
_NO_LABELS = frozenset({"image_id", "rad_id", ""})
# The tables of train and test do not agree on the plural.
_ONE_NAME = {"Other disease": "Other diseases"}


def recognise(tree: Tree) -> Download | None:
    """A finding counts where most readers name it; without a majority, all of them are uncertain.

    Raises:
        UserError: a table that cannot be read.
    """
    tables = tree.with_columns("image_id", "No finding")
    by_column = bool(tables)
    if not tables:
        boxes = tree.with_columns("image_id", "class_name")
        boxes = [table for table in boxes if _reader_column(tree.headers[table])]
        train = [table for table in boxes if PurePosixPath(table).name == "train.csv"]
        tables = [latest(train or boxes)] if boxes else []
    if not tables:
        return None
    entries: list[Entry] = []
    for table in tables:
        stem = PurePosixPath(table).stem
        folder = next((name for name in ("train", "test") if name in stem), "")
        for image, rows in grouped(tree.rows(table), "image_id").items():
            findings, uncertain = _judged(rows, by_column)
            entries.append(
                replace(
                    entry_of(image, tree.find(image, folder), rows[0]),
                    findings=findings,
                    uncertain=uncertain,
                    silent=not findings and not uncertain,
                    # Of Kaggle's form only the training images have labels: they are divided.
                    split=folder if by_column else "",
                )
            )
    roles = {"label": "its columns of findings" if by_column else "class_name"}
    if by_column:
        roles["split"] = " and ".join(PurePosixPath(table).name for table in tables)
    headers = {table: tree.headers[table] for table in tables}
    remark = "a finding counts where most readers name it"
    return Download(tuple(entries), headers, roles, labels_of(entries), (remark,))


def _judged(
    rows: Sequence[dict[str, str]], by_column: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What most readers of an image found, or what they named without a majority for anything."""
    readers: dict[str, set[str]] = defaultdict(set)
    column = _reader_column(rows[0])
    for row in rows:
        for label in _marked(row) if by_column else [row["class_name"]]:
            readers[_ONE_NAME.get(label, label)].add(row.get(column, ""))
    readers.pop("", None)
    half = len({row.get(column, "") for row in rows}) / 2
    most = tuple(sorted(label for label, who in readers.items() if len(who) > half))
    return most, () if most else tuple(sorted(readers))


def _reader_column(columns: Iterable[str]) -> str:
    """The column of the reader, `rad_id` or `rad_ID`; empty where there is none."""
    return next((column for column in columns if column.casefold() == "rad_id"), "")


def _marked(row: dict[str, str]) -> list[str]:
    return [
        column
        for column, value in row.items()
        if column.casefold() not in _NO_LABELS and value.replace(",", ".").casefold() in _YES
    ]
