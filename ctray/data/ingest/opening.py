"""Opening what a command is given as data: a store, or a folder that a store is made of first.

The libraries that prepare a store are imported when one has to be prepared only: a command that is
given a store starts a second sooner.
"""

from pathlib import Path

from ctray.data.store import Store, is_store


def check_data(data: Path) -> tuple[str, ...]:
    """Raise the mistakes in a store or data folder that show without opening an image.

    Returns:
        Sentences on how a folder is read, where there is something to say.
    """
    if is_store(data):
        return ()
    from ctray.data.ingest.listing import list_folder

    return list_folder(data).notes


def known_store(data: Path, place: Path) -> Store | None:
    """The store that `open_or_prepare` would open as it is; None where it would have to prepare."""
    found = next((store for store in (data, place) if is_store(store)), None)
    return None if found is None else Store.open(found)


def open_or_prepare(data: Path, place: Path) -> Store:
    """The store at `data`, or one made of the folder `data` in `place`; needs a running Ray.

    A store that is in `place` already is opened as it is.
    """
    known = known_store(data, place)
    if known is not None:
        return known
    from ctray.data.ingest.listing import list_folder
    from ctray.data.ingest.prepare import prepare

    return prepare(list_folder(data), place)
