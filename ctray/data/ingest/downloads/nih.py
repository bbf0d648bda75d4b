"""NIH ChestX-ray14: `Data_Entry_2017*.csv`, images in any folders, and two lists of names.

https://nihcc.app.box.com/v/ChestXray-NIHCC
"""

import re
from dataclasses import replace
from pathlib import PurePosixPath

from ctray.data.ingest.downloads.tree import Download, Tree, entry_of, labels_of, latest, person

_LIST = re.compile(r"(train_val|test)_list.*\.txt", re.IGNORECASE)


def recognise(tree: Tree) -> Download | None:
    """A table whose `Finding Labels` are joined by `|`; the lists are its official split.

    Raises:
        UserError: a table that cannot be read.
    """
    tables = tree.with_columns("Image Index", "Finding Labels", "Patient ID")
    if not tables:
        return None
    table = latest(tables)
    lists = tree.called(_LIST)
    splits: dict[str, str] = {}
    for name, match in lists.items():
        split = "test" if match[1].casefold() == "test" else "train"
        splits |= dict.fromkeys(tree.lines(name), split)
    entries = []
    for row in tree.rows(table):
        name, parts = row["Image Index"], row["Finding Labels"].split("|")
        labels = tuple(part.strip() for part in parts if part.strip())
        # The table of 2020 has another word for it.
        sex = row.get("Patient Gender") or row.get("Patient Sex", "")
        follow_up = row.get("Follow-up #", "")
        known = person(row.get("Patient Age", ""), sex)
        entries.append(
            replace(
                entry_of(name, tree.find(name), row),
                findings=labels,
                silent=not labels,
                group=row["Patient ID"],
                view=row.get("View Position", ""),
                split=splits.get(name, ""),
                meta=known | ({"follow-up": follow_up} if follow_up else {}),
            )
        )
    roles = {"label": "Finding Labels", "patient": "Patient ID", "view": "View Position"}
    if lists:
        roles["split"] = " and ".join(sorted(PurePosixPath(name).name for name in lists))
    headers = {name: tree.headers[name] if name == table else () for name in (table, *lists)}
    return Download(tuple(entries), headers, roles, labels_of(entries))
