"""Errors as clients get them: a status and {"error": "one line"}."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from search import QueryError, VideoIndexError

logger = logging.getLogger(__name__)

_LINE = 300  # characters of an error
_CLIENT_LIBRARIES = {"qdrant_client", "httpx", "httpcore", "grpc"}  # whose errors tell of a server away


def one_line(text: str) -> str:
    """`text` without line breaks and half characters, cut where it is long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    line = line.encode("utf-8", "replace").decode("utf-8")
    return line if len(line) <= _LINE else line[: _LINE - 3] + "..."


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer that tells of an error."""
    return JSONResponse({"error": one_line(message)}, status, headers)


def install_handlers(app: FastAPI, hints: Mapping[str, str]) -> None:
    """Make all errors of `app` JSON of one line; `hints` tell by parameter what would be right."""

    async def told(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, StarletteHTTPException)
        return error_response(error.status_code, str(error.detail), error.headers)

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return error_response(400, validation_line(error.errors(), hints))

    app.add_exception_handler(StarletteHTTPException, told)
    app.add_exception_handler(RequestValidationError, invalid)


def validation_line(errors: Sequence[Any], hints: Mapping[str, str]) -> str:
    """The first of pydantic's errors: the parameter, what it was, what would be right."""
    first = errors[0]
    names = [part for part in first["loc"] if isinstance(part, str) and part not in ("query", "path", "body")]
    name = names[-1] if names else "request"
    given = first.get("input")
    shown = f" {given[:40]!r}" if isinstance(given, str) else ""
    return f"{name}{shown}: {hints.get(name, first['msg'])}"


@contextmanager
def search_errors() -> Iterator[None]:
    """Errors of a search as statuses: 400 where the query is wrong, 503 where index or engine are away."""
    try:
        yield
    except HTTPException:
        raise
    except QueryError as error:
        raise HTTPException(400, str(error)) from None
    except (VideoIndexError, OSError) as error:  # their messages name folders
        raise _away(error) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] in _CLIENT_LIBRARIES:
            raise _away(error) from error
        raise


def _away(error: Exception) -> HTTPException:
    logger.error("the index or its engine cannot be used: %s", one_line(str(error)))
    message = "the index or its search engine cannot be reached; try again later"
    return HTTPException(503, message, {"Retry-After": "10"})
