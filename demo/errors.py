"""Error responses: a status and {"error": "one line"}."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from common.errors import UserError
from search import QueryError, VideoIndexError

logger = logging.getLogger(__name__)

_MAX_CHARACTERS = 300
# Packages whose exceptions mean that the server of a search engine cannot be reached.
_ENGINE_CLIENTS = {"qdrant_client", "httpx", "httpcore", "grpc"}


def one_line(text: str) -> str:
    """`text` without line breaks, control characters and lone surrogates, at most 300 characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    line = line.encode("utf-8", "replace").decode("utf-8")
    return line if len(line) <= _MAX_CHARACTERS else line[: _MAX_CHARACTERS - 3] + "..."


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The response that reports an error."""
    return JSONResponse({"error": one_line(message)}, status, headers)


async def http_error(_: Request, error: Exception) -> JSONResponse:
    """The handler of an `HTTPException`."""
    assert isinstance(error, StarletteHTTPException)
    return error_response(error.status_code, str(error.detail), error.headers)


def install_handlers(app: FastAPI, hints: Mapping[str, str]) -> None:
    """Make all errors of `app` JSON of one line. `hints`: the valid values, by parameter."""

    async def invalid_value(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return error_response(400, validation_line(error.errors(), hints))

    app.add_exception_handler(StarletteHTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid_value)


def validation_line(errors: Sequence[Any], hints: Mapping[str, str]) -> str:
    """The first of pydantic's errors in one line: the parameter, its value, what would be right."""
    first = errors[0]
    names = [part for part in first["loc"] if isinstance(part, str) and part not in ("query", "path", "body")]
    name = names[-1] if names else "request"
    value = first.get("input")
    shown = f" {value[:40]!r}" if isinstance(value, str) else ""
    return f"{name}{shown}: {hints.get(name, first['msg'])}"


def only(*names: str) -> Any:
    """A dependency of a route that takes the parameters `names`: all others are 400, as fields of a form."""

    def check(request: Request) -> None:
        for name in request.query_params:
            if name not in names:
                known = f"give some of {', '.join(names)}" if names else "this address takes none"
                raise HTTPException(400, f"parameter {name[:40]!r}: not known here; {known}")

    return Depends(check)


@contextmanager
def search_errors() -> Iterator[None]:
    """Turn errors of a search into statuses: 400 for a wrong query, 503 if index or engine are gone."""
    try:
        yield
    except HTTPException:
        raise
    except QueryError as error:
        raise HTTPException(400, str(error)) from None
    except (VideoIndexError, OSError) as error:
        raise _unavailable(error) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] in _ENGINE_CLIENTS:
            raise _unavailable(error) from error
        raise


def _unavailable(error: Exception) -> HTTPException:
    """The message goes to the log only, because it may name folders. An `OSError` may be a bug: with its
    traceback."""
    is_clear = isinstance(error, UserError | ConnectionError | TimeoutError) or not isinstance(error, OSError)
    traceback = None if is_clear else error
    logger.error("the index or its engine cannot be used: %s", one_line(str(error)), exc_info=traceback)
    message = "the index or its search engine cannot be reached; try again later"
    return HTTPException(503, message, {"Retry-After": "10"})
