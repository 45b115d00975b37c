"""What gradio would read for a client, and must not here.

An event's arguments may hold files by path or address. `Blocks.launch` makes gradio refuse paths outside of
its upload cache; a page that is mounted on an app is never launched, so that any file of the machine could be
named. Addresses would be downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from gradio import processing_utils, utils

from search import QueryError


def close_files(blocks: gr.Blocks) -> None:
    """Let events of `blocks` name uploaded files only, and no process of this server fetch an address."""
    blocks.has_launched = True
    processing_utils.async_ssrf_protected_download = _no_download
    processing_utils.ssrf_protected_download = _no_download
    processing_utils.save_url_to_cache = _no_download


def uploaded(path: str | None) -> Path | None:
    """The uploaded file that an event names. Raises `QueryError` where it is none, or is gone by now."""
    if path is None:
        return None
    file = Path(path).resolve()
    if not (file.is_relative_to(Path(utils.get_upload_folder()).resolve()) and file.is_file()):
        raise QueryError("the uploaded file is not there any more; upload it again")
    return file


def _no_download(*_: Any, **__: Any) -> Any:
    raise gr.Error("files must be uploaded, not named by an address", print_exception=False)
