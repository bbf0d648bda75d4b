"""Which files a bundle is made of; nothing here imports torch."""

from ctray import storage

# The last file to be written: where it is, a bundle is whole.
SUMS = "SHA256SUMS"


def is_bundle(uri: str) -> bool:
    """Whether a whole bundle lies in a folder."""
    return storage.is_file(storage.join(uri, SUMS))
