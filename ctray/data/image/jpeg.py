"""The segments of a JPEG stream: a file, or a frame inside DICOM (ITU-T T.81, annex B)."""

import re
from collections import defaultdict
from collections.abc import Iterator

START, END = b"\xff\xd8", b"\xff\xd9"
# What ends coded data: not a stuffed 0 or restart mark, nor the stuffed bits of JPEG-LS.
_NEXT_MARKER = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_START_OF_FRAME = frozenset({0xC0, 0xC1, 0xC2})
_COEFFICIENTS = 64


def jpeg_end(data: bytes) -> int | None:
    """The place behind the end mark of a JPEG or JPEG-LS stream; None if there is none.

    Thumbnails lie within segments and do not count, nor does what follows the end.
    """
    return next((place for marker, place in _segments(data) if marker == _END_OF_IMAGE), None)


def has_every_scan(data: bytes) -> bool:
    """Whether every coefficient of every component has its last scan, at least the header of it."""
    components: set[int] = set()
    known: dict[int, set[int]] = defaultdict(set)
    for marker, place in _segments(data):
        if marker in _START_OF_FRAME and place + 8 <= len(data):
            components = {*data[place + 8 : place + 8 + 3 * data[place + 7] : 3]}
        if marker == _START_OF_SCAN and place + 3 <= len(data):
            count = data[place + 2]
            last = place + 3 + 2 * count
            if last + 3 > len(data) or data[last + 2] & 0x0F:
                continue
            for component in data[place + 3 : last : 2]:
                known[component] |= {*range(data[last], data[last + 1] + 1)}
    return bool(components) and all(len(known[one]) == _COEFFICIENTS for one in components)


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Each marker, and the place behind it, where the length of its segment stands."""
    place = len(START)
    while found := _NEXT_MARKER.search(data, place):
        marker = data[found.start() + 1]
        yield marker, found.end()
        if marker == _END_OF_IMAGE:
            return
        # The length counts itself. Behind the header of a scan coded data follow.
        place = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
