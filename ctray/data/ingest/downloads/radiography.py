"""COVID-19 Radiography Database: a folder a class, and a sheet such as `COVID.metadata.xlsx`.

https://www.kaggle.com/datasets/tawsifurrahman/covid19-radiography-database
"""

import re

from ctray.data.ingest.downloads.tree import Tree

# The first version misspelt a name.
_SHEET = re.compile(
    r"(covid(?:-19)?|normal|lung_opacity|viral pneumonia)\.m[ea]tadata\.xlsx", re.IGNORECASE
)


def base_of(tree: Tree) -> str | None:
    """The folder, relative to the tree, that has the sheets beside the folders of the classes."""
    for name in tree.files:
        folder, _, sheet = name.rpartition("/")
        match = _SHEET.fullmatch(sheet)
        if match is None:
            continue
        images = f"{folder}/{match[1]}/".lstrip("/").casefold()
        if any(file.casefold().startswith(images) for file in tree.files):
            return folder
    return None
