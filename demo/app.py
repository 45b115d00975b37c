"""The app: the JSON API over one open index, behind the limits."""

from __future__ import annotations

from fastapi import FastAPI

from demo.limits import Limits
from search import Retriever, VideoIndex


def create_app(index: VideoIndex, retriever: Retriever, limits: Limits | None = None) -> FastAPI:
    """The JSON API over one open index."""
    limits = limits or Limits()
    app = FastAPI(title="Video search", docs_url=None, redoc_url=None)

    @app.get("/health")
    def health() -> dict[str, int]:
        return {"videos": len(index)}

    return app
