"""CheXpert: `train.csv` and `valid.csv` with a column a label, patients by their folders.

https://stanfordmlgroup.github.io/competitions/chexpert
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from ctray.data.ingest.downloads.tree import Download, Entry, Tree, entry_of, mark, person

_SPLITS = {"train.csv": "train", "valid.csv": "val", "test.csv": "test"}
_NO_LABELS = frozenset({"Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", ""})
_PATIENT = re.compile(r"(?:^|/)(patient\d+)/", re.IGNORECASE)


def recognise(tree: Tree) -> Download | None:
    """Labels of 1, 0, -1 (uncertain) or blank, which is what the report does not mention.

    Blank counts as no, as in the paper of the authors.

    Raises:
        UserError: a table that cannot be read.
    """
    found = tree.with_columns("Path", "Frontal/Lateral", "No Finding")
    if not found:
        return None
    base = min(found, key=lambda table: table.count("/")).rpartition("/")[0]
    beside = [table for table in found if table.rpartition("/")[0] == base]
    # Some copies have further tables, of other labellers.
    tables = [table for table in beside if PurePosixPath(table).name in _SPLITS] or beside[:1]
    splits = {table: _SPLITS.get(PurePosixPath(table).name, "") for table in tables}
    labels = tuple(name for name in tree.headers[tables[0]] if name not in _NO_LABELS)
    entries = tuple(
        _entry(tree, row, labels, split)
        for table, split in splits.items()
        for row in tree.rows(table)
    )
    roles = {"label": f"its {len(labels)} columns of findings", "patient": "Path"}
    roles["view"] = "Frontal/Lateral and AP/PA"
    roles["split"] = " and ".join(PurePosixPath(table).name for table in tables)
    headers = {table: tree.headers[table] for table in tables}
    return Download(entries, headers, roles, labels, ("blank counts as no, -1 as uncertain",))


def _side(written: str) -> str:
    """AP or PA of a frontal image; pandas writes nan where there is none."""
    return "Frontal" if written.casefold() in ("", "nan") else written


def _entry(tree: Tree, row: dict[str, str], labels: Sequence[str], split: str) -> Entry:
    path = row["Path"]
    patient = _PATIENT.search(path.replace("\\", "/"))
    values = {label: mark(row.get(label, ""), f"{label} of {path}") for label in labels}
    frontal = row["Frontal/Lateral"].casefold() != "lateral"
    return replace(
        # The folder above may be called otherwise; patient, study and view are not.
        entry_of(path, tree.find(path, folders=2), row),
        findings=tuple(label for label, value in values.items() if value == 1),
        uncertain=tuple(label for label, value in values.items() if value == -1),
        silent=all(value is None for value in values.values()),
        group=patient[1] if patient else "",
        view=_side(row.get("AP/PA", "")) if frontal else "Lateral",
        split=split,
        meta=person(row.get("Age", ""), row.get("Sex", "")),
    )
