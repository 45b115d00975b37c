"""The FastAPI app: the JSON API over one open index, behind the access middleware."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from demo.access_middleware import AccessMiddleware
from demo.api import Api
from demo.decoding import ClipDecoder, ClipLimits
from demo.errors import error_response, install_handlers
from demo.kept_uploads import KeptUploads, upload_route
from demo.limits import Limits
from demo.schemas import HINTS
from search import Retriever, VideoIndex

_DESCRIPTION = """Search an index of videos by words, a picture or a clip.

Every error is {"error": "one line"}. Open this file with any program that reads OpenAPI: there is no page of
documentation here, because FastAPI's page would fetch its scripts from other hosts."""


def create_app(index: VideoIndex, retriever: Retriever, limits: Limits | None = None) -> FastAPI:
    """The JSON API over one open index. Apps that are mounted on it later have the same limits.

    `app.state.decoder` decodes uploaded clips in a separate process, `app.state.uploads` keeps the files that
    the page uploads. Raises `VideoIndexError` if another model made the index.
    """
    index.check_model(retriever.identity)
    limits = limits or Limits()
    decoder = ClipDecoder(ClipLimits(limits.clip_seconds, limits.pixels), timeout=limits.decode_seconds)
    uploads = KeptUploads(limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        decoder.close()
        uploads.close()

    app = _App(
        title="Video search",
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.decoder = decoder
    app.state.uploads = uploads
    app.state.limits = limits
    install_handlers(app, HINTS)
    router = Api(index, retriever, limits, decoder).router()
    app.include_router(router)
    app.router.routes.append(upload_route(uploads))
    methods: dict[str, set[str]] = {}
    for route in [*router.routes, app.router.routes[-1]]:
        assert isinstance(route, Route)
        methods.setdefault(route.path, set()).update(route.methods or ())
    # Without these, a page that is mounted at "/" would answer other methods.
    app.router.routes += [Route(path, _OtherMethods(allowed)) for path, allowed in methods.items()]
    app.add_middleware(AccessMiddleware, limits=limits)
    return app


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """The schema without status 422: our handler answers wrong values with 400."""
        schema = super().openapi()
        for path in schema["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            schema.get("components", {}).get("schemas", {}).pop(name, None)
        return schema


class _OtherMethods:
    """Answers 405 to the methods that a path lacks. A class, because Starlette lets functions answer GET
    only."""

    def __init__(self, methods: set[str]) -> None:
        self._allowed = ", ".join(sorted(methods))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = HTTPException(405, f"method {scope['method'][:20]}: use {self._allowed}")
        await error_response(error.status_code, error.detail, {"Allow": self._allowed})(scope, receive, send)
