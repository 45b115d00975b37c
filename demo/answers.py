"""The functions behind the page's events.

Events of a gradio page are an open endpoint, so that all that they bring is checked here, by the limits of
`search/query.py`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import HTTPException

from demo.cards import error_html, results_html
from demo.closed_files import uploaded
from demo.decoding import ClipDecoder, UploadError, WithUploads, decode_picture
from demo.errors import search_errors
from demo.limits import Limits
from search import QueryError, Retriever, SearchResults, VideoIndex

MAX_SHOWN = 100  # cards of one answer
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

logger = logging.getLogger(__name__)


class Answers:
    """The functions behind the events. They return HTML, whatever they are given."""

    def __init__(self, index: VideoIndex, retriever: Retriever, decoder: ClipDecoder, limits: Limits) -> None:
        self.index = index
        self.retriever = retriever
        self._decoder = decoder
        self._limits = limits

    def search(
        self, text: Any, exclude: Any, upload: Any, top: Any, frame_weight: Any, top_frames: Any
    ) -> str:
        """Results for a text, an uploaded file, or both."""

        def answer() -> tuple[SearchResults, str]:
            words, unwanted = _text(text, "query"), _text(exclude, "text to exclude")
            settings = _settings(top, frame_weight, top_frames)
            file = uploaded(upload)
            title = " + ".join(part for part in (words, file.name if file else "") if part)
            if not title:
                raise QueryError("the query is empty; give a text, a picture or a clip")
            retriever, files = self._with_upload(file) if file else (self.retriever, {})
            found = retriever.search(self.index, words or None, exclude=unwanted or None, **files, **settings)
            return found, title + (f", not {unwanted}" if unwanted else "")

        return self._html(answer)

    def similar(self, top: Any, frame_weight: Any, top_frames: Any, event: gr.EventData) -> str:
        """Results like a video of the index, which the event names."""

        def answer() -> tuple[SearchResults, str]:
            data = event._data
            video_id = data.get("id") if isinstance(data, dict) else None
            settings = _settings(top, frame_weight, top_frames)
            if not isinstance(video_id, str) or video_id not in self.index:
                raise QueryError("this video is not in the index any more; search again")
            return self.retriever.similar(self.index, video_id, **settings), f"Like {video_id}"

        return self._html(answer)

    def _with_upload(self, file: Path) -> tuple[Retriever, dict[str, Any]]:
        """A retriever that has the file in it, and what it is searched by. Raises `QueryError`."""
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

    def _html(self, answer: Callable[[], tuple[SearchResults, str]]) -> str:
        try:
            with search_errors():
                found, title = answer()
                return results_html(found, title=title, videos=len(self.index))
        except HTTPException as error:
            return error_html(error.detail)
        except Exception:
            logger.exception("a search failed")
            return error_html("something went wrong here; the terminal of the program says what")


def _text(value: Any, name: str) -> str:
    if value is not None and not isinstance(value, str):
        raise QueryError(f"the {name} must be a text")
    return (value or "").strip()


def _settings(top: Any, frame_weight: Any, top_frames: Any) -> dict[str, Any]:
    for value, name in ((top, "videos to show"), (frame_weight, "frame weight"), (top_frames, "top frames")):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise QueryError(f"{name}: give a number")
    if not 1 <= top <= MAX_SHOWN:
        raise QueryError(f"videos to show: give a number from 1 to {MAX_SHOWN}")
    return {"top": int(top), "frame_weight": float(frame_weight), "top_frames": int(top_frames)}
