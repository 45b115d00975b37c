"""The functions behind the page's events.

Events of a gradio page are an open endpoint: anybody can send any argument. So these functions check all of
them, by the limits of `search/query.py`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import HTTPException

from demo.decoding import ClipDecoder, UploadError, WithUploads, decode_picture
from demo.errors import search_errors
from demo.gradio_access import uploaded_file
from demo.limits import Limits
from demo.page_html import error_html, results_html
from search import QueryError, Retriever, SearchResults, VideoIndex

MAX_CARDS = 100  # of one answer
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

logger = logging.getLogger(__name__)


class PageEvents:
    """The functions behind the events. They return HTML for any arguments."""

    def __init__(self, index: VideoIndex, retriever: Retriever, decoder: ClipDecoder, limits: Limits) -> None:
        self.index = index
        self.retriever = retriever
        self._decoder = decoder
        self._limits = limits

    def search(
        self, text: Any, exclude: Any, upload: Any, top: Any, frame_weight: Any, top_frames: Any
    ) -> str:
        """Results for a text, an uploaded file, or both."""

        def search() -> tuple[SearchResults, str]:
            words, unwanted = _text(text, "query"), _text(exclude, "text to exclude")
            settings = _settings(top, frame_weight, top_frames)
            file = uploaded_file(upload)
            title = " + ".join(part for part in (words, file.name if file else "") if part)
            if not title:
                raise QueryError("the query is empty; give a text, a picture or a clip")
            retriever, files = self._with_upload(file) if file else (self.retriever, {})
            results = retriever.search(
                self.index, words or None, exclude=unwanted or None, **files, **settings
            )
            return results, title + (f", not {unwanted}" if unwanted else "")

        return self._html(search)

    def similar(self, top: Any, frame_weight: Any, top_frames: Any, event: gr.EventData) -> str:
        """Results like a video of the index, which the event names."""

        def search() -> tuple[SearchResults, str]:
            data = event._data
            video_id = data.get("id") if isinstance(data, dict) else None
            settings = _settings(top, frame_weight, top_frames)
            if not isinstance(video_id, str) or video_id not in self.index:
                raise QueryError("this video is not in the index any more; search again")
            return self.retriever.similar(self.index, video_id, **settings), f"Like {video_id}"

        return self._html(search)

    def _with_upload(self, file: Path) -> tuple[Retriever, dict[str, Any]]:
        """A retriever with the decoded file, and the argument of `search` for it. Raises `QueryError`."""
        try:
            try:
                picture = decode_picture(file, pixels=self._limits.pixels)
                return WithUploads(self.retriever, picture=picture, clip=None), {"image": file}
            except UploadError as error:
                if error.status != 415 or file.suffix.lower() in _PICTURES:
                    raise
            clip = self._decoder.decode(file, frames=self.retriever.frames, size=self.retriever.image_size)
            return WithUploads(self.retriever, picture=None, clip=clip), {"video": file}
        except UploadError as error:
            raise QueryError(f"the upload {file.name}: {str(error).partition(': ')[2]}") from None

    def _html(self, search: Callable[[], tuple[SearchResults, str]]) -> str:
        """The results of `search` under its title, or one line that says what is wrong."""
        try:
            with search_errors():
                results, title = search()
                return results_html(results, title=title, videos=len(self.index))
        except HTTPException as error:
            return error_html(error.detail)
        except Exception:
            logger.exception("a search failed")
            return error_html("internal error; the terminal of the program shows the details")


def _text(value: Any, name: str) -> str:
    if value is not None and not isinstance(value, str):
        raise QueryError(f"the {name} must be a text")
    return (value or "").strip()


def _settings(top: Any, frame_weight: Any, top_frames: Any) -> dict[str, Any]:
    for value, name in ((top, "videos to show"), (frame_weight, "frame weight"), (top_frames, "top frames")):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise QueryError(f"{name}: give a number")
    if not 1 <= top <= MAX_CARDS:
        raise QueryError(f"videos to show: give a number from 1 to {MAX_CARDS}")
    return {"top": int(top), "frame_weight": float(frame_weight), "top_frames": int(top_frames)}
