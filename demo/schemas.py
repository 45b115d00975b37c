"""Requests and responses of the API as pydantic models; /openapi.json is made from them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from common.languages import LANGUAGES
from search.query import MAX_FRAME_WEIGHT, MAX_QUERY_CHARACTERS, MAX_TOP

MAX_TOP_FRAMES = 1000
MAX_FRAME = 10_000_000  # of a long video, the frames of all moments count
HINTS = {
    "top": f"give a whole number from 1 to {MAX_TOP:,}",
    "frame_weight": f"give a number from 0 to {MAX_FRAME_WEIGHT:g}",
    "top_frames": f"give a whole number from 1 to {MAX_TOP_FRAMES:,}",
    "frame": f"give a whole number from 0 to {MAX_FRAME:,}",
    "q": f"give a text of at most {MAX_QUERY_CHARACTERS:,} characters",
    "not": f"give texts of at most {MAX_QUERY_CHARACTERS:,} characters",
    "language": f"give {' or '.join(LANGUAGES)}",
}

Top = Annotated[int, Field(ge=1, le=MAX_TOP, description="Number of results")]
FrameWeight = Annotated[
    float | None,
    Field(
        ge=0,
        le=MAX_FRAME_WEIGHT,
        allow_inf_nan=False,
        description="Weight of the best frames relative to the whole video; by default as in evaluation",
    ),
]
TopFrames = Annotated[
    int | None,
    Field(ge=1, le=MAX_TOP_FRAMES, description="Frames of a video that count; by default as in evaluation"),
]

Language = Annotated[
    Literal["english", "chinese"] | None,
    Field(description="Of the texts; a bilingual model otherwise tells it by their letters"),
]


class Ranking(BaseModel):
    """How videos are ranked."""

    top: Top = 10
    frame_weight: FrameWeight = None
    top_frames: TopFrames = None

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_absent(cls, value: Any, info: ValidationInfo) -> Any:
        """Browsers send an empty value where nothing was filled in."""
        name = str(info.field_name)
        return cls.model_fields[name].get_default(call_default_factory=True) if value == "" else value


class Query(Ranking):
    """What to search for."""

    model_config = ConfigDict(populate_by_name=True)

    q: str | None = Field(
        None, description=f"What the video should show; at most {MAX_QUERY_CHARACTERS:,} characters"
    )
    exclude: list[str] = Field(
        default_factory=list, alias="not", description="What it should not show; may be repeated"
    )
    language: Language = None


QUERY_NAMES = tuple(field.alias or name for name, field in Query.model_fields.items())


class MomentAnswer(BaseModel):
    """A frame that matches."""

    frame: int = Field(description="Its number among the frames that the model saw")
    seconds: float | None = Field(description="Its time in the video; null if not known")
    score: float = Field(description="Its cosine with the query; of a moment of a long video its score")
    start: float | None = Field(description="Of a long video: where the moment starts, in seconds")
    end: float | None = Field(description="Of a long video: where the moment ends, in seconds")


class HitAnswer(BaseModel):
    """A video that was found."""

    video_id: str
    score: float = Field(description="video_score + frame_weight x frame_score; of --head wti, xpool: theirs")
    video_score: float = Field(description="Cosine of the query with the whole video")
    frame_score: float = Field(description="Mean cosine with the top_frames best frames")
    moment: float | None = Field(description="Seconds of the best frame")
    frame: int = Field(description="Number of the best frame")
    moments: list[MomentAnswer] = Field(
        description="All frames that counted, or the best moments of a long video; best first"
    )
    start: float | None = Field(description="Of a long video: where its best moment starts, in seconds")
    end: float | None = Field(description="Of a long video: where its best moment ends, in seconds")
    duration: float | None = Field(description="Seconds of the video")
    missing: bool = Field(description="The file was deleted or moved after indexing")
    copies: list[str] = Field(description="Ids of exact copies, which are not listed by themselves")
    video_url: str | None = Field(description="Address of the file; null if there is none")
    thumbnail_url: str | None = Field(
        description="Address of a JPEG of the best frame; null if none is stored"
    )


class SearchAnswer(BaseModel):
    """The results of a search."""

    hits: list[HitAnswer] = Field(description="Best first")
    remarks: list[str] = Field(description="Messages for the user, for example that a text was cut off")
    seconds: float = Field(description="Duration of the search")
    model: str = Field(description="zero-shot: a published model as it is; trained: a checkpoint")


class SpanAnswer(BaseModel):
    """A moment of a long video."""

    start: float = Field(description="Seconds")
    end: float = Field(description="Seconds")
    thumbnail_url: str | None


class VideoAnswer(BaseModel):
    """The record of a video."""

    video_id: str
    duration: float | None = Field(description="Seconds")
    bytes: int = Field(description="Size of the file, or of the stored frames, when it was indexed")
    sha256: str = Field(description="Of the contents")
    times: list[float | None] = Field(description="Seconds of the frames that the model saw")
    moments: list[SpanAnswer] = Field(description="Of a long video, in order")
    missing: bool = Field(description="The file was deleted or moved after indexing")
    video_url: str | None
    thumbnail_url: str | None


class HealthAnswer(BaseModel):
    """The state of a running server."""

    status: str = "ok"
    videos: int
    language: str = Field(description="Of the model: english, chinese or bilingual")
    model: str = Field(description="zero-shot: a published model as it is; trained: a checkpoint")
    engine: str = Field(description="The engine that proposes candidates")
    frames: int = Field(description="Frames of a video that the model saw")
    width: int = Field(description="Of the vectors")
    frame_weight: float = Field(description="The default")
    top_frames: int = Field(description="The default")


class ErrorAnswer(BaseModel):
    """Any error."""

    error: str = Field(description="One line that names the parameter and says what would be right")


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of a route for /openapi.json; every route may answer 400 and 429."""
    meaning = {
        400: "A wrong value",
        404: "No such video, or no file of it",
        408: "The request took too long to arrive",
        413: "Too large",
        415: "Not a form, or not a readable picture or video",
        416: "No such range",
        429: "Too many requests; Retry-After says when to retry",
        503: "Index or engine not available, or too many requests at once; Retry-After says when to retry",
    }
    return {
        status: {"model": ErrorAnswer, "description": meaning[status]} for status in (400, *statuses, 429)
    }
