"""The routes of the JSON API. Work with the model, SQLite and files runs in threads.

/openapi.json documents what a route answers to wrong input.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

from fastapi import APIRouter, HTTPException, Request
from fastapi import Path as PathParameter
from fastapi import Query as QueryParameter
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from demo.decoding import ClipDecoder, UploadError, WithUploads, decode_picture
from demo.errors import only, search_errors
from demo.limits import Limits
from demo.media import MediaFiles, jpeg_response, video_response
from demo.schemas import (
    MAX_FRAME,
    QUERY_NAMES,
    HealthAnswer,
    HitAnswer,
    Query,
    Ranking,
    SearchAnswer,
    SpanAnswer,
    VideoAnswer,
    errors,
)
from demo.throttling import WaitingLine
from demo.uploads import SearchForm, read_form, saved_files
from search import Retriever, SearchResults, VideoIndex, VideoRecord
from search.index_format import kind_of

Result = TypeVar("Result")
VideoId = Annotated[
    str, PathParameter(description="Id of a video, as holiday/beach.mp4; slashes may be sent as they are")
]
Frame = Annotated[
    int | None, QueryParameter(ge=0, le=MAX_FRAME, description="Number of a frame; the middle one by default")
]
_FILE = {"type": "string", "format": "binary"}


class Api:
    """The routes over one index and one model."""

    def __init__(self, index: VideoIndex, retriever: Retriever, limits: Limits, decoder: ClipDecoder) -> None:
        self._index = index
        self._retriever = retriever
        self._limits = limits
        self._decoder = decoder
        self._media = MediaFiles()
        self._picture_lock = threading.Lock()  # one large picture in memory at a time
        self._waiting_line = WaitingLine(
            limits.encodings, seconds=limits.queue_seconds, waiting=limits.waiting
        )
        self._engine = str(index.info()["engine"])

    def router(self) -> APIRouter:
        """All routes."""
        router = APIRouter()
        get: dict[str, Any] = {"methods": ["GET"]}
        add = router.add_api_route
        ranking = only(*Ranking.model_fields)
        add(
            "/search",
            self.search,
            **get,
            response_model=SearchAnswer,
            responses=errors(503),
            dependencies=[only(*QUERY_NAMES)],
        )
        add(
            "/search",
            self.search_form,
            methods=["POST"],
            response_model=SearchAnswer,
            responses=errors(408, 413, 415, 503),
            openapi_extra={"requestBody": _form_body()},
            dependencies=[only()],  # a form has fields
        )
        add(
            "/similar/{video_id:path}",
            self.similar,
            **get,
            response_model=SearchAnswer,
            responses=errors(404, 503),
            dependencies=[ranking],
        )
        add(
            "/videos/{video_id:path}",
            self.video,
            **get,
            response_model=VideoAnswer,
            responses=errors(404, 503),
            dependencies=[only()],
        )
        media: dict[str, Any] = {"response_class": Response, "include_in_schema": True}
        add(
            "/video/{video_id:path}",
            self.video_file,
            methods=["GET"],
            responses={200: _content("video/*"), 206: _content("video/*"), **errors(404, 416, 503)},
            dependencies=[only()],
            **media,
        )
        add("/video/{video_id:path}", self.video_file, methods=["HEAD"], include_in_schema=False)
        add(
            "/thumbnail/{video_id:path}",
            self.thumbnail,
            methods=["GET"],
            responses={200: _content("image/jpeg"), **errors(404, 503)},
            dependencies=[only("frame")],
            **media,
        )
        health: dict[str, Any] = {"response_model": HealthAnswer, "responses": errors(503)}
        add("/health", self.health, **get, **health, dependencies=[only()])
        return router

    # Searching

    async def search(self, query: Annotated[Query, QueryParameter()]) -> SearchAnswer:
        """Videos that show what `q` says."""
        self._check_texts(query)
        return await self._search(query, self._retriever, {})

    async def search_form(self, request: Request) -> SearchAnswer:
        """Videos that match a text, a picture, a clip, or several of these."""
        form = await read_form(request, self._limits)
        try:
            self._check_texts(form.query)
            retriever = await run_in_threadpool(self._with_uploads, form)
            return await self._search(form.query, retriever, {name: Path(name) for name in form.files})
        finally:
            await form.close()

    async def similar(self, video_id: VideoId, ranking: Annotated[Ranking, QueryParameter()]) -> SearchAnswer:
        """Videos like one of the index."""

        def work() -> SearchResults:
            self._index.refresh()
            self._record(video_id)
            return self._retriever.similar(self._index, video_id, **ranking.model_dump())

        return await self._answer_with(work)

    async def _search(self, query: Query, retriever: Retriever, files: dict[str, Any]) -> SearchAnswer:
        text = query.q
        if files and not (text or "").strip():
            text = None

        def work() -> SearchResults:
            settings = query.model_dump(exclude={"q", "exclude"})
            return retriever.search(self._index, text, exclude=query.exclude, **files, **settings)

        return await self._answer_with(work)

    def _check_texts(self, query: Query) -> None:
        limit = self._limits.query_characters
        for name, text in (("q", query.q or ""), *(("not", text) for text in query.exclude)):
            if len(text) > limit:
                raise HTTPException(400, f"{name}: has {len(text):,} characters; give at most {limit:,}")
        if len(query.exclude) > self._limits.excluded_texts:
            raise HTTPException(400, f"not: give at most {self._limits.excluded_texts} texts")

    def _with_uploads(self, form: SearchForm) -> Retriever:
        """A retriever for this form, which holds the form's decoded files."""
        retriever = self._retriever
        if not form.files:
            return retriever
        try:
            with saved_files(form.files) as paths:
                picture = clip = None
                if "video" in paths:
                    frames, size = retriever.frames, retriever.image_size
                    clip = self._decoder.decode(paths["video"], frames=frames, size=size)
                with self._picture_lock:
                    if "image" in paths:
                        picture = decode_picture(paths["image"], pixels=self._limits.pixels)
                    return WithUploads(retriever, picture=picture, clip=clip)
        except UploadError as error:
            raise HTTPException(error.status, str(error)) from None

    async def _answer_with(self, search: Callable[[], SearchResults]) -> SearchAnswer:
        async with self._waiting_line:
            results = await self._in_thread(search)
        content = results.to_json(paths=False)
        for shown, hit in zip(content["hits"], results.hits, strict=True):
            has_file = hit.path is not None and not hit.missing
            shown["video_url"] = url_of("video", hit.video_id) if has_file else None
            shown["thumbnail_url"] = self._thumbnail_url(hit.video_id, hit.frame)
        return SearchAnswer.model_construct(
            hits=[HitAnswer.model_validate(shown) for shown in content["hits"]],
            remarks=content["remarks"],
            seconds=content["seconds"],
            model=content["model"],
        )

    # Videos

    async def video(self, video_id: VideoId) -> VideoAnswer:
        """The record of a video."""

        def work() -> VideoAnswer:
            record = self._record(video_id)
            return VideoAnswer(
                video_id=record.video_id,
                duration=record.duration,
                bytes=record.size,
                sha256=record.digest,
                times=list(record.times),
                moments=self._moments(video_id),
                missing=record.is_missing,
                video_url=url_of("video", video_id) if record.has_file else None,
                thumbnail_url=self._thumbnail_url(video_id),
            )

        return await self._in_thread(work)

    def _moments(self, video_id: str) -> list[SpanAnswer]:
        each = self._index.settings.frames
        return [
            SpanAnswer(
                start=span.start,
                end=span.end,
                thumbnail_url=self._thumbnail_url(video_id, place * each + each // 2),
            )
            for place, span in enumerate(self._index.spans(video_id))
        ]

    async def video_file(self, video_id: VideoId, request: Request) -> Response:
        """The file of a video, or the range of bytes that the header Range asks for."""
        record = await self._in_thread(lambda: self._record(video_id))
        return await video_response(self._media, record, request)

    async def thumbnail(self, video_id: VideoId, request: Request, frame: Frame = None) -> Response:
        """A small JPEG of the frame nearest to `frame`."""

        def work() -> bytes | None:
            self._record(video_id)
            return self._index.thumbnail(video_id, frame=frame)

        jpeg = await self._in_thread(work)
        if jpeg is None:
            raise HTTPException(404, "the index has no thumbnail of this video")
        return jpeg_response(jpeg, request)

    async def health(self) -> HealthAnswer:
        """The state of the server and its index."""

        def work() -> HealthAnswer:
            self._index.refresh()
            config = self._retriever.config
            return HealthAnswer(
                videos=len(self._index),
                language=config.language,
                model=kind_of(self._retriever.identity),
                engine=self._engine,
                frames=self._retriever.frames,
                width=self._retriever.width,
                frame_weight=self._retriever.frame_weight,
                top_frames=config.top_frames,
            )

        return await self._in_thread(work)

    def _record(self, video_id: str) -> VideoRecord:
        record = self._index.record(video_id)
        if record is None:
            raise HTTPException(404, f"video {video_id[:80]!r}: not in the index")
        return record

    def _thumbnail_url(self, video_id: str, frame: int | None = None) -> str | None:
        if self._index.settings.thumbnails == "none":
            return None
        return url_of("thumbnail", video_id) + ("" if frame is None else f"?frame={frame}")

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        def guarded() -> Result:
            with search_errors():
                return work()

        return await run_in_threadpool(guarded)


def url_of(kind: str, video_id: str) -> str:
    """The path of a video's address on this server, quoted."""
    return f"/{kind}/{quote(video_id, safe='/')}"


def _content(kind: str) -> dict[str, Any]:
    return {"content": {kind: {"schema": _FILE}}, "description": "The bytes"}


def _form_body() -> dict[str, Any]:
    """The form for /openapi.json: the fields of `Query` and two files."""
    fields = dict(Query.model_json_schema(by_alias=True)["properties"])
    files: Sequence[tuple[str, str]] = (("image", "A picture"), ("video", "A clip"))
    fields |= {name: {**_FILE, "description": f"{what} as the query"} for name, what in files}
    return {"content": {"multipart/form-data": {"schema": {"type": "object", "properties": fields}}}}
