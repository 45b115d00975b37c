"""The form of POST /search: its fields, and its files in a private folder that is always deleted."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import HTTPException, Request
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from demo.errors import validation_line
from demo.limits import Limits
from demo.schemas import HINTS, QUERY_NAMES, Query

logger = logging.getLogger(__name__)

_FIELDS = 64
_FIELD_BYTES = 64 << 10
FILES = ("image", "video")
_TEXTS = tuple(name for name in QUERY_NAMES if name != "not")
_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


@dataclass(frozen=True)
class SearchForm:
    """The fields of a form, and its files "image" and "video", not yet decoded."""

    query: Query
    files: dict[str, UploadFile]
    data: FormData

    async def close(self) -> None:
        """Delete the received files."""
        await self.data.close()


async def read_form(request: Request, limits: Limits) -> SearchForm:
    """The form of a request. Raises `HTTPException` naming what is wrong."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _FORMS:
        raise HTTPException(415, f"Content-Type {kind[:80]!r}: send a form as {_FORMS[0]}")
    try:
        data = await request.form(max_files=len(FILES), max_fields=_FIELDS, max_part_size=_FIELD_BYTES)
    except (StarletteHTTPException, ClientDisconnect):
        raise
    # What the parser raises on malformed forms.
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        logger.info("a form that cannot be read: %r", error)
        raise HTTPException(400, "the form cannot be read; send multipart/form-data") from None
    try:
        return SearchForm(_query(data), _files(data, limits), data)
    except BaseException:
        await data.close()
        raise


def _query(data: FormData) -> Query:
    values: dict[str, Any] = {"not": data.getlist("not")}
    for name in data:
        if name not in (*_TEXTS, *FILES, "not"):
            names = ", ".join((*_TEXTS, *FILES, "not"))
            raise HTTPException(400, f"field {name[:40]!r}: not known here; give some of {names}")
    values |= {name: data[name] for name in _TEXTS if name in data}
    try:
        return Query.model_validate(values)
    except ValidationError as error:
        raise HTTPException(400, validation_line(error.errors(), HINTS)) from None


def _files(data: FormData, limits: Limits) -> dict[str, UploadFile]:
    files: dict[str, UploadFile] = {}
    for name in FILES:
        for value in data.getlist(name):
            if not isinstance(value, UploadFile):
                if value:
                    raise HTTPException(400, f"{name}: send a file, not a text")
                continue
            if not value.filename and not value.size:
                continue
            if name in files:
                raise HTTPException(400, f"{name}: send one file")
            if (value.size or 0) > limits.upload_bytes:
                limit = f"{limits.upload_bytes / (1 << 20):g} MiB"
                raise HTTPException(413, f"{name}: the file is too large; send at most {limit}")
            files[name] = value
    return files


@contextmanager
def saved_files(files: dict[str, UploadFile]) -> Iterator[dict[str, Path]]:
    """The files under our own names in a folder that only this user can read, deleted at the end."""
    if not files:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="hmmc-upload-") as folder:
        paths = {}
        for name, upload in files.items():
            paths[name] = Path(folder, name)
            upload.file.seek(0)
            with open(paths[name], "wb") as file:
                shutil.copyfileobj(upload.file, file, 1 << 20)
        yield paths
