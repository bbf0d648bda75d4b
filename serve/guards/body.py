"""Limits of a request body: its size, its time and its files, before anything is decoded."""

import asyncio
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from serve.settings import AppSettings

_MAX_FIELDS = 16
# One parameter of a header: its name, and its value with the quotes.
_PARAMETER = re.compile(r';\s*([^\s=;"]+)\s*=\s*("(?:\\.|[^"\\])*"|[^;]*)')

# More of them, as Python has, would also give what is no text.
_CHARSETS = ("utf-8", "iso-8859-1", "us-ascii")


class UnfinishedBody(HTTPException):
    """A refusal while the client still sends: it sees it only if what comes is read."""


class DeclaredSize:
    """The guard that refuses a body by its Content-Length, before a byte of it is read."""

    def __init__(self, settings: AppSettings) -> None:
        self._settings = settings

    async def __call__(self, request: Request) -> None:
        """Raise HTTPException 413 if the declared size is over the limit."""
        # The server below has already refused a Content-Length that is not a number.
        if int(request.headers.get("content-length", 0)) > self._settings.max_body_bytes:
            # A client that asks first (RFC 9110, 10.1.1) has not begun, and to read tells it to.
            sends = "expect" not in request.headers
            raise _too_large(self._settings, unfinished=sends)


async def read_body(request: Request, settings: AppSettings) -> bytes:
    """The body of a request, counted while it comes in.

    Raises:
        HTTPException: 400 the client left, 408 the body is slow, 413 it is too large.
    """
    within_s = settings.body_timeout_s
    try:
        return await asyncio.wait_for(_read_counted(request, settings), within_s)
    except TimeoutError as error:
        raise HTTPException(408, f"the request body took longer than {within_s:g} s") from error
    except ClientDisconnect as error:
        raise HTTPException(400, "the client left before the body was complete") from error


async def _read_counted(request: Request, settings: AppSettings) -> bytes:
    body = bytearray()
    more = True
    while more:
        # `Request.stream` does not tell whether a chunk is the last one.
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > settings.max_body_bytes:
            raise _too_large(settings, unfinished=more)
    return bytes(body)


def _too_large(settings: AppSettings, unfinished: bool) -> HTTPException:
    limit = f"{settings.max_body_bytes / 2**20:g} MiB"
    detail = f"the request body is larger than the limit of {limit}"
    kind = UnfinishedBody if unfinished else HTTPException
    return kind(413, detail, headers={"connection": "close"})


@dataclass(frozen=True)
class SentFile:
    """One encoded image of a request; the name is None for a raw body and where none was sent."""

    name: str | None
    data: bytes


async def form_files(
    request: Request, body: bytes, field: str, settings: AppSettings
) -> list[SentFile]:
    """The files in one field of a form, at least one.

    Args:
        request: whose headers say how the form is divided.
        body: the whole form.
        field: name of the field; what is in others is ignored.
        settings: with the limit on the number of files.

    Raises:
        HTTPException: 400 a broken form or no such file, 413 too many files.
    """

    async def once() -> AsyncGenerator[bytes, None]:
        yield body

    parser = _FormParser(
        request.headers, once(), max_files=settings.max_files, max_fields=_MAX_FIELDS
    )
    # The parts stay in memory, where the body already is.
    parser.spool_max_size = len(body)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        status = 413 if "Too many" in error.message else 400
        raise HTTPException(status, f"the form was refused: {error.message}") from error
    try:
        parts = [part for part in form.getlist(field) if isinstance(part, UploadFile)]
        if not parser.complete:
            raise HTTPException(400, "the form is cut short: its closing boundary is missing")
        if not parts:
            raise HTTPException(400, f"the form has no file in a field named {field!r}")
        return [SentFile(_name_of(part), await part.read()) for part in parts]
    finally:
        await form.close()


class _FormParser(MultiPartParser):
    """Also takes a part for a file whose only name is an extended one."""

    complete = False

    def __init__(self, *args: Any, **limits: Any) -> None:
        super().__init__(*args, **limits)
        self._value = b""

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        # It comes in pieces; the base class gets it whole, at its end.
        self._value += data[start:end]

    def on_header_end(self) -> None:
        value, self._value = self._value, b""
        parameters = _parameters(value.decode("latin-1"))
        if "filename*" in parameters and "filename" not in parameters:
            value += b'; filename=""'
        super().on_header_value(value, 0, len(value))
        super().on_header_end()

    def on_end(self) -> None:
        self.complete = True


def _name_of(part: UploadFile) -> str | None:
    extended = _extended_name(part.headers["content-disposition"])
    if extended is not None:
        return extended
    # The form may declare a charset that gives half a character, which no answer can hold.
    return (part.filename or "").encode("utf-8", "replace").decode() or None


def _parameters(disposition: str) -> dict[str, str]:
    return {name.lower(): value for name, value in _PARAMETER.findall(disposition)}


def _extended_name(disposition: str) -> str | None:
    """A file name as RFC 5987 has it, `filename*=UTF-8''r%C3%B6ntgen.png`; None without one.

    RFC 7578 forbids it in forms and many clients send it all the same. It comes before a plain one,
    unless it is broken or in another charset than those of the RFC and ASCII.
    """
    value = _parameters(disposition).get("filename*", "").strip(' \t"')
    charset, _, rest = value.partition("'")
    if charset.lower() not in _CHARSETS:
        return None
    try:
        return unquote_to_bytes(rest.partition("'")[2]).decode(charset) or None
    except UnicodeDecodeError:
        return None
