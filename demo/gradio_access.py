"""Blocks features of gradio that the page does not need: routes, files, downloads of addresses."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from demo.errors import error_response

if TYPE_CHECKING:
    import gradio as gr

logger = logging.getLogger(__name__)

# The page has its own route for uploads: gradio's answers paths of this machine.
_UNUSED = re.compile(
    r"(?:/gradio_api)?/(?:file[=/]|upload(/|$)|upload_progress|proxy=|component_server|deep_link|dev/|process_recording"
    r"|custom_component/|stream/|vibe-|undo-vibe-edit|run-history|runs(/|$)|monitoring|profiling|login|logout"
    r"|token|user(/|$)|call/|api/|run/|info|openapi\.json)"
)
_MESSAGES = re.compile(r"(?:/gradio_api)?/queue/data/?$")


def is_blocked_route(path: str) -> bool:
    """Whether `path` (decoded) is a route of gradio that the page does not need."""
    return _UNUSED.match(path) is not None


def block_files(blocks: gr.Blocks) -> None:
    """Let events of `blocks` name no files, and let no event download an address.

    The arguments of an event may hold files by path or address. `Blocks.launch` makes gradio refuse paths
    outside of its upload folder, but a page that is mounted on an app is never launched: without this, a
    client could name any file of the machine.
    """
    from gradio import processing_utils

    blocks.has_launched = True
    processing_utils.async_ssrf_protected_download = _refuse_download
    processing_utils.ssrf_protected_download = _refuse_download
    processing_utils.save_url_to_cache = _refuse_download


def _refuse_download(*_: Any, **__: Any) -> Any:
    import gradio as gr

    raise gr.Error("files must be uploaded, not named by an address", print_exception=False)


class KnownSessions:
    """ASGI middleware of the mounted page: messages of a session that does not exist are status 404.

    Gradio finds out after the response has started, and raises an error whose traceback is logged.
    """

    def __init__(self, app: ASGIApp, blocks: gr.Blocks) -> None:
        self._app = app
        self._blocks = blocks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _MESSAGES.match(scope["path"]):
            await self._app(scope, receive, send)
            return
        sessions = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])
        if sessions[-1] not in self._blocks._queue.pending_messages_per_session:
            await error_response(404, "no such session")(scope, receive, send)
            return
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception as error:
            # Another connection may have taken the last message of the session.
            if not (started and _is_not_found(error)):
                raise
            logger.info("a session ended while its messages were read")
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def _is_not_found(error: BaseException | None) -> bool:
    if error is None:
        return False
    if isinstance(error, HTTPException):
        return error.status_code == 404
    inner = getattr(error, "exceptions", ())  # of an ExceptionGroup
    return any(_is_not_found(part) for part in (*inner, error.__cause__))
