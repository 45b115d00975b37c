"""Blocks features of gradio that the page does not need: routes, local files, downloads of addresses."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search import QueryError

if TYPE_CHECKING:
    import gradio as gr

_FILE = re.compile(r"(?:/gradio_api)?/file[=/](?P<path>.*)", re.DOTALL)
_UNUSED = re.compile(
    r"(?:/gradio_api)?/(?:proxy=|component_server|deep_link|dev/|process_recording|custom_component/|stream/"
    r"|vibe-|undo-vibe-edit|run-history|runs(/|$)|monitoring|profiling|login|logout|token|user(/|$)"
    r"|call/|api/|run/|info|openapi\.json)"
)


def is_blocked_route(path: str) -> bool:
    """Whether `path` (decoded) is a route of gradio that the page does not need, or no uploaded file."""
    file = _FILE.match(path)
    if file:
        return not _is_upload(file["path"])
    return _UNUSED.match(path) is not None


def block_files(blocks: gr.Blocks) -> None:
    """Let events of `blocks` name uploaded files only, and let no event download an address.

    The arguments of an event may hold files by path or address. `Blocks.launch` makes gradio refuse paths
    outside of its upload folder, but a page that is mounted on an app is never launched: without this, a
    client could name any file of the machine.
    """
    from gradio import processing_utils

    blocks.has_launched = True
    processing_utils.async_ssrf_protected_download = _refuse_download
    processing_utils.ssrf_protected_download = _refuse_download
    processing_utils.save_url_to_cache = _refuse_download


def uploaded_file(path: str | None) -> Path | None:
    """The uploaded file that an event names. Raises `QueryError` if it is no upload or was deleted."""
    if path is None:
        return None
    file = Path(path).resolve()
    if not (file.is_relative_to(_upload_folder()) and file.is_file()):
        raise QueryError("the uploaded file is not there any more; upload it again")
    return file


def _is_upload(path: str) -> bool:
    if "\0" in path:
        return False
    return Path(os.path.realpath(path)).is_relative_to(_upload_folder())


def _upload_folder() -> Path:
    from gradio.utils import get_upload_folder

    return Path(get_upload_folder()).resolve()


def _refuse_download(*_: Any, **__: Any) -> Any:
    import gradio as gr

    raise gr.Error("files must be uploaded, not named by an address", print_exception=False)
