"""The routes of gradio that the page does not need, and that could read or run more than it shows."""

from __future__ import annotations

import os
import re
from pathlib import Path

OUR_OWN = re.compile(r"/(search|similar|videos?|thumbnail|health|openapi\.json)(/|$)")
_FILE = re.compile(r"(?:/gradio_api)?/file[=/](?P<path>.*)", re.DOTALL)
_CLOSED = re.compile(
    r"(?:/gradio_api)?/(?:proxy=|component_server|deep_link|dev/|process_recording|custom_component/|stream/"
    r"|vibe-|undo-vibe-edit|run-history|runs(/|$)|monitoring|profiling|login|logout|token|user(/|$)"
    r"|call/|api/|run/|info|openapi\.json)"
)
# What makes the model work, or fills the disk.
_COSTLY = re.compile(r"/search(/|$)|/similar/|(?:/gradio_api)?/(?:queue/join|upload)(/|$)")


def is_costly(path: str) -> bool:
    """Whether requests for `path` count as searches."""
    return _COSTLY.match(path) is not None


def is_closed(path: str) -> bool:
    """Whether `path` (decoded) is a route of gradio that stays closed. Files: all but what was uploaded."""
    if OUR_OWN.match(path):
        return False
    file = _FILE.match(path)
    if file:
        return not _is_upload(file["path"])
    return _CLOSED.match(path) is not None


def _is_upload(path: str) -> bool:
    from gradio.utils import get_upload_folder

    if "\0" in path:
        return False
    folder = Path(get_upload_folder()).resolve()
    return Path(os.path.realpath(path)).is_relative_to(folder)
