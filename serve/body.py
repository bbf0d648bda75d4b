"""Reading a request body: size, time and number of files are bounded before anything is decoded."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from email.message import Message

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

MAX_BODY_BYTES = 20 * 2**20
MAX_FILES = 64
IMAGE_TYPES = ("image/png", "image/jpeg", "application/dicom", "application/octet-stream")
FORM_TYPE = "multipart/form-data"
FORM_FIELD = "file"

_TOO_LARGE = f"the request body is larger than the limit of {MAX_BODY_BYTES // 2**20} MiB"


@dataclass(frozen=True)
class SentFile:
    """One encoded image of a request; the name is None for a raw body."""

    name: str | None
    data: bytes


async def read_files(request: Request, timeout_s: float) -> list[SentFile]:
    """The images of a request, at least one, not decoded.

    Raises:
        HTTPException: 400 no body or a broken form, 408 the body is slow, 413 too large or too
            many files, 415 neither an image nor a form.
    """
    kind = _media_type(request)
    _refuse_declared_size(request)
    try:
        body = await asyncio.wait_for(_read_counted(request), timeout_s)
    except TimeoutError as error:
        raise HTTPException(408, f"the request body took longer than {timeout_s:g} s") from error
    except ClientDisconnect as error:
        raise HTTPException(400, "the client left before the body was complete") from error
    if not body:
        raise HTTPException(400, "the request has no body; send an image")
    return await _form_files(request, body) if kind == FORM_TYPE else [SentFile(None, body)]


def _media_type(request: Request) -> str:
    header = request.headers.get("content-type", "")
    message = Message()
    message["content-type"] = header
    if header and message.get_content_type() in (*IMAGE_TYPES, FORM_TYPE):
        return message.get_content_type()
    raise HTTPException(
        415,
        f"content type {header!r} is not accepted; send {', '.join(IMAGE_TYPES)}, or {FORM_TYPE} "
        f"with the images in {FORM_FIELD!r}",
    )


def _refuse_declared_size(request: Request) -> None:
    # The server below has already refused a Content-Length that is not a number.
    if int(request.headers.get("content-length", 0)) > MAX_BODY_BYTES:
        raise HTTPException(413, _TOO_LARGE, headers={"connection": "close"})


async def _read_counted(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException(413, _TOO_LARGE, headers={"connection": "close"})
    return bytes(body)


async def _form_files(request: Request, body: bytes) -> list[SentFile]:
    async def once() -> AsyncGenerator[bytes, None]:
        yield body

    parser = _FormParser(request.headers, once(), max_files=MAX_FILES, max_fields=16)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        status = 413 if "Too many" in error.message else 400
        raise HTTPException(status, f"the form was refused: {error.message}") from error
    try:
        parts = [part for part in form.getlist(FORM_FIELD) if isinstance(part, UploadFile)]
        if not parser.complete:
            raise HTTPException(400, "the form is cut short: its closing boundary is missing")
        if not parts:
            raise HTTPException(400, f"the form has no file in a field named {FORM_FIELD!r}")
        return [SentFile(part.filename, await part.read()) for part in parts]
    finally:
        await form.close()


class _FormParser(MultiPartParser):
    spool_max_size = MAX_BODY_BYTES  # parts stay in memory, where the body already is
    complete = False

    def on_end(self) -> None:
        self.complete = True
