"""RSNA Pneumonia: a table of boxes, a table of classes, DICOM files named after their patients.

https://www.kaggle.com/c/rsna-pneumonia-detection-challenge
"""

from dataclasses import replace

from ctray.data.ingest.downloads.tree import (
    Download,
    Tree,
    entry_of,
    grouped,
    labels_of,
    latest,
    mark,
    person,
)

_BOX = ("x", "y", "width", "height")
_PNEUMONIA, _NO_PNEUMONIA = "Pneumonia", "no Pneumonia"


def recognise(tree: Tree) -> Download | None:
    """The three classes of `stage_2_detailed_class_info.csv`, else the Target of the boxes.

    Raises:
        UserError: a table that cannot be read.
    """
    details, boxes = (tree.with_columns("patientId", column) for column in ("class", "Target"))
    # Another table may say a Target of patients, too; this one has boxes.
    boxes = [
        table
        for table in boxes
        if "stage_2" in table or {*_BOX} <= {column.casefold() for column in tree.headers[table]}
    ]
    if not boxes and not any("detailed_class_info" in table for table in details):
        return None
    tables = [latest(found) for found in (details, boxes) if found]
    classes: dict[str, str] = {}
    targets: dict[str, bool] = {}
    cells: dict[str, dict[str, str]] = {}
    for table in tables:
        for image, rows in grouped(tree.rows(table), "patientId").items():
            cells[image] = rows[0] | cells.get(image, {})
            if "class" in rows[0]:
                classes[image] = rows[0]["class"]
            if "Target" in rows[0]:
                targets[image] = any(
                    mark(row["Target"], f"the Target of {image}") == 1 for row in rows
                )
    entries = []
    for image, row in cells.items():
        sick = targets.get(image, classes.get(image) == "Lung Opacity")
        target = _PNEUMONIA if sick else _NO_PNEUMONIA
        entries.append(
            replace(
                entry_of(image, tree.find(image), row),
                findings=(classes.get(image) or target,),
                also=(target,),
                group=image,
                meta=person(row.get("age", ""), row.get("sex", "")),
            )
        )
    roles = {"label": "class" if details else "Target", "patient": "patientId"}
    roles["view"] = "the DICOM files"
    labels = tuple(label for label in labels_of(entries) if label != _NO_PNEUMONIA)
    headers = {table: tree.headers[table] for table in tables}
    return Download(tuple(entries), headers, roles, labels)
