"""covid-chestxray-dataset: `metadata.csv` of radiographs and CT, collected from publications.

https://github.com/ieee8023/covid-chestxray-dataset
"""

import re
from dataclasses import replace

from ctray.data.ingest.downloads.tree import (
    Download,
    Entry,
    Tree,
    entry_of,
    labels_of,
    latest,
    person,
)
from ctray.data.ingest.tables import repository

_NOT_KNOWN = frozenset({"", "todo", "unknown"})
_CT_VIEWS = frozenset({"axial", "coronal"})
_MORE = ("offset", "survival", "location")


def recognise(tree: Tree) -> Download | None:
    """A finding such as `Pneumonia/Viral/COVID-19` is a class; each of its parts can be chosen.

    Raises:
        UserError: a table that cannot be read.
    """
    # The first versions began with a capital letter.
    tables = [
        table
        for patient in ("patientid", "Patientid")
        for table in tree.with_columns(patient, "finding", "view", "filename")
    ]
    if not tables:
        return None
    table = latest(tables)
    entries = tuple(_entry(tree, row) for row in tree.rows(table))
    roles = {"label": "finding", "patient": "patientid", "view": "view"}
    return Download(entries, {table: tree.headers[table]}, roles, labels_of(entries))


def _entry(tree: Tree, cells: dict[str, str]) -> Entry:
    row = {column.casefold(): value for column, value in cells.items()}
    finding, view, modality = row["finding"], row["view"], row.get("modality", "")
    if modality.casefold() == "ct" and view.casefold() not in _CT_VIEWS:
        view = "CT"
    known = finding.casefold() not in _NOT_KNOWN
    more = {column: row[column] for column in _MORE if row.get(column)}
    return replace(
        entry_of(row["filename"], tree.find(row["filename"], row.get("folder", "")), cells),
        findings=(finding,) if known else (),
        also=tuple(part.strip() for part in re.split("[/,]", finding)) if known else (),
        silent=not known,
        group=row["patientid"],
        view=view,
        source=repository(row.get("url", "")),
        meta={
            **person(row.get("age", ""), row.get("sex", "")),
            **({"modality": modality} if modality else {}),
            **more,
        },
    )
