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

from fastapi import HTTPException

from demo.decoding import ClipDecoder, UploadError, WithUploads, decode_picture
from demo.errors import search_errors
from demo.kept_uploads import KeptUpload, KeptUploads
from demo.limits import Limits
from demo.page.html import error_html, hint_html, results_html
from demo.page.words import WORDS
from search import QueryError, Retriever, SearchResults, VideoIndex

MAX_CARDS = 100  # of one answer
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

logger = logging.getLogger(__name__)


class PageEvents:
    """The functions behind the events. They return HTML for any arguments."""

    def __init__(
        self,
        index: VideoIndex,
        retriever: Retriever,
        decoder: ClipDecoder,
        uploads: KeptUploads,
        limits: Limits,
    ) -> None:
        self.index = index
        self.retriever = retriever
        self.words = WORDS[retriever.config.language]
        self.waiting = limits.waiting
        self._decoder = decoder
        self._uploads = uploads
        self._limits = limits

    def search(
        self,
        text: Any,
        exclude: Any,
        upload_id: Any,
        like: Any,
        top: Any,
        frame_weight: Any,
        top_frames: Any,
    ) -> str:
        """Results for a text, an uploaded file, or both; or for the video of the index that `like` names."""

        def search() -> tuple[SearchResults, str]:
            settings = _settings(top, frame_weight, top_frames)
            if like not in (None, ""):
                return self._similar(like, settings)
            words, unwanted = _text(text, "query"), _text(exclude, "text to exclude")
            upload = self._uploads.find(upload_id)
            title = " + ".join(part for part in (words, upload.name if upload else "") if part)
            if not title:
                raise QueryError("the query is empty; give a text, a picture or a clip")
            retriever, files = self._with_upload(upload) if upload else (self.retriever, {})
            results = retriever.search(
                self.index, words or None, exclude=unwanted or None, **files, **settings
            )
            if unwanted:
                title = self.words.without.format(title=title, unwanted=unwanted)
            return results, title

        return self._html(search)

    def restore(self, text: Any, exclude: Any, upload_id: Any, like: Any, *settings: Any) -> str:
        """The results that an address stands for; the hint of a fresh page if it asks for nothing."""
        if not any((text, exclude, upload_id, like)):
            return hint_html(self.words, videos=len(self.index))
        return self.search(text, exclude, upload_id, like, *settings)

    def _similar(self, video_id: Any, settings: dict[str, Any]) -> tuple[SearchResults, str]:
        if not isinstance(video_id, str) or video_id not in self.index:
            raise QueryError("this video is not in the index any more; search again")
        title = self.words.like.format(name=video_id)
        return self.retriever.similar(self.index, video_id, **settings), title

    def _with_upload(self, upload: KeptUpload) -> tuple[Retriever, dict[str, Any]]:
        """A retriever with the decoded file, and the argument of `search` for it. Raises `QueryError`."""
        file = Path(upload.name)  # what the results call it
        try:
            try:
                picture = decode_picture(upload.path, pixels=self._limits.pixels)
                return WithUploads(self.retriever, picture=picture, clip=None), {"image": file}
            except UploadError as error:
                if error.status != 415 or file.suffix.lower() in _PICTURES:
                    raise
            frames, size = self.retriever.frames, self.retriever.image_size
            clip = self._decoder.decode(upload.path, frames=frames, size=size)
            return WithUploads(self.retriever, picture=None, clip=clip), {"video": file}
        except UploadError as error:
            raise QueryError(f"the upload {file.name}: {str(error).partition(': ')[2]}") from None
        except FileNotFoundError:  # deleted meanwhile
            raise QueryError("the uploaded file is not there any more; upload it again") from None

    def _html(self, search: Callable[[], tuple[SearchResults, str]]) -> str:
        """The results of `search` under its title, or one line that says what is wrong."""
        try:
            with search_errors():
                results, title = search()
                return results_html(results, self.words, title=title, videos=len(self.index))
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
