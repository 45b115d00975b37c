"""The files of an index folder, their contents and the choices for them. Imports no large library.

D joint width, F frames a video. A row is a video's place in the feature files. New videos get new rows;
compacting the folder renumbers them and starts the next generation of feature files. docs/SEARCH.md describes
the files for users.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.atomic_files import write_text
from common.errors import UserError, file_errors
from common.json_text import parse_json

FORMAT = 1
SETTINGS_FILE = "index.json"
CATALOG_FILE = "catalog.sqlite"
LOCK_FILE = "writer.lock"
FAILURES_FILE = "failures.jsonl"
ENGINE_FOLDER = "faiss"
DTYPE = "float16"

ENGINES = ("faiss", "qdrant", "exact")
FAISS_KINDS = ("auto", "flat", "sq8", "pq4", "hnsw")
THUMBNAILS = ("all", "one", "none")
# The one word that says where a result comes from: a published model as it is, or a checkpoint of training.
ZERO_SHOT, TRAINED = "zero-shot", "trained"


class VideoIndexError(UserError):
    """An index folder cannot be used; the message names it and says what would be right."""


def kind_of(model: Mapping[str, Any]) -> str:
    """`ZERO_SHOT` or `TRAINED`, of the record of a model; those of former versions are all trained."""
    return str(model.get("kind", TRAINED))


def missing_package(package: str) -> UserError:
    """The error for a library that is not installed; it says what to install."""
    return UserError(f"this needs the package {package}: pip install -r requirements-search.txt")


@dataclass(frozen=True)
class VideoRecord:
    """One video of an index.

    `path` is the file, None for a video of a frame store without files. `size`, `mtime_ns` and `digest`
    (SHA-256) show whether it changed. `times` are the seconds of its F frames (None: not known). `source` is
    the folder or store that it came from, `name` its id there; "" if that is `video_id`. A long video is cut
    into moments, each with a row of its own: then `times` is empty, and the rows have them.
    """

    video_id: str
    source: str
    path: str | None
    size: int
    mtime_ns: int
    digest: str
    duration: float | None
    times: tuple[float | None, ...]
    name: str = ""

    @property
    def source_name(self) -> str:
        """Its id in its source."""
        return self.name or self.video_id

    @property
    def has_file(self) -> bool:
        """Whether its file exists now."""
        return self.path is not None and Path(self.path).is_file()

    @property
    def is_missing(self) -> bool:
        """Whether it came from a file that no longer exists."""
        return self.path is not None and not self.has_file


@dataclass(frozen=True)
class Row:
    """What one row of the features holds: a whole video, or a moment of one, `start` to `end` in seconds.

    `times` are the seconds of its F frames. `first` is the first row of the video.
    """

    record: VideoRecord
    times: tuple[float | None, ...]
    first: int
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class Span:
    """A moment of a video: seconds `start` to `end`, and the times of its F frames."""

    start: float
    end: float
    times: tuple[float | None, ...]


@dataclass(frozen=True)
class IndexSettings:
    """The contents of index.json: the model (the record of `search.model_identity`), D, F and the choices.

    `lengths`: the lengths of the frames' features are stored too, because the model's head reads them.
    `every` and `cut_above`: how long videos are cut into moments (`search.moments.cutting.Cutting`); None, in
    indexes of former versions: the default.
    """

    model: dict[str, Any]
    width: int
    frames: int
    thumbnails: str = "all"
    engine: str = "faiss"
    engine_options: dict[str, Any] | None = None
    format: int = FORMAT
    lengths: bool = False
    every: float | None = None
    cut_above: float | None = None

    def save(self, folder: Path) -> None:
        """Write index.json atomically and force it to disk."""
        values = asdict(self)
        for name, usual in (("lengths", False), ("every", None), ("cut_above", None)):
            if values[name] == usual:  # older versions do not know them
                del values[name]
        text = json.dumps(values, ensure_ascii=False, indent=1) + "\n"
        write_text(folder / SETTINGS_FILE, text, durable=True)


def read_settings(folder: Path) -> IndexSettings:
    """The settings of an index. Raises `VideoIndexError` if there are none or they have another format."""
    path = folder / SETTINGS_FILE
    if not path.exists():
        raise VideoIndexError(f"{folder}: no index there; tools/search.py index makes one")
    try:
        with file_errors(path):
            values = parse_json(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise VideoIndexError(f"{path}: cannot be read ({error}); make the index again") from None
    version = values.get("format") if isinstance(values, dict) else None
    if version != FORMAT:
        raise VideoIndexError(
            f"{path}: format {version!r}, this program reads {FORMAT}; make the index again"
        )
    try:
        settings = IndexSettings(**values)
    except TypeError as error:
        raise VideoIndexError(f"{path}: {error}; make the index again") from None
    sizes, options = (settings.width, settings.frames), settings.engine_options
    if (
        not isinstance(settings.model, dict)
        or not all(isinstance(size, int) and size > 0 for size in sizes)
        or not isinstance(settings.engine, str)
        or not isinstance(options, dict | None)
        or not all(isinstance(each, float | int | None) for each in (settings.every, settings.cut_above))
    ):
        raise VideoIndexError(f"{path}: not the settings of an index; make the index again")
    return settings


def feature_paths(folder: Path, generation: int, *, lengths: bool = False) -> tuple[Path, ...]:
    """The files of video embeds [rows, D], frame embeds [rows, F, D] and, if asked, lengths [rows, F]."""
    names = ("videos", "frames", *(["lengths"] if lengths else []))
    return tuple(folder / f"{name}-{generation}.f16" for name in names)


def check_new_folder(folder: Path) -> None:
    """Raise `VideoIndexError` if `folder` is neither an index nor a place where one can be made."""
    if folder.exists() and not folder.is_dir():
        raise VideoIndexError(f"{folder}: is a file; give a folder")
    if not folder.is_dir() or (folder / SETTINGS_FILE).exists():
        return
    if any(path.name != LOCK_FILE and not path.name.endswith(".tmp") for path in folder.iterdir()):
        raise VideoIndexError(f"{folder}: holds other files and no index; give a new or empty folder")
