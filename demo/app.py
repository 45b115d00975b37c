"""The app: the JSON API over one open index, behind the limits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from demo.api import Api
from demo.decoding import ClipDecoder, ClipLimits
from demo.errors import error_response, install_handlers
from demo.gate import Gate
from demo.limits import Limits
from demo.schemas import HINTS
from search import Retriever, VideoIndex

_DESCRIPTION = """Search an index of videos by words, a picture or a clip.

Every error is {"error": "one line"}. There is no page of documentation here, because FastAPI's would fetch
its scripts from elsewhere; this file can be opened with any program that reads OpenAPI."""


def create_app(index: VideoIndex, retriever: Retriever, limits: Limits | None = None) -> FastAPI:
    """The JSON API over one open index; more may be mounted on the app, and is behind the same limits.

    `app.state.decoder` decodes uploaded clips in a process of its own. Raises `VideoIndexError` where another
    model made the index.
    """
    index.check_model(retriever.identity)
    limits = limits or Limits()
    decoder = ClipDecoder(ClipLimits(limits.clip_seconds, limits.pixels), timeout=limits.decode_seconds)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        decoder.close()

    app = _App(
        title="Video search",
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.decoder = decoder
    app.state.limits = limits
    install_handlers(app, HINTS)
    router = Api(index, retriever, limits, decoder).router()
    app.include_router(router)
    allowed: dict[str, set[str]] = {}
    for route in router.routes:
        assert isinstance(route, Route)
        allowed.setdefault(route.path, set()).update(route.methods or ())
    # Else a page that is mounted at "/" would answer.
    app.router.routes += [Route(path, _OtherMethods(methods)) for path, methods in allowed.items()]
    app.add_middleware(Gate, limits=limits)
    return app


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """Without the status 422, which our handler of wrong values does not use."""
        schema = super().openapi()
        for path in schema["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            schema.get("components", {}).get("schemas", {}).pop(name, None)
        return schema


class _OtherMethods:
    """Answers methods that a route has not; an instance, so that it is asked for any method."""

    def __init__(self, methods: set[str]) -> None:
        self._allowed = ", ".join(sorted(methods))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = HTTPException(405, f"method {scope['method'][:20]}: use {self._allowed}")
        await error_response(error.status_code, error.detail, {"Allow": self._allowed})(scope, receive, send)
