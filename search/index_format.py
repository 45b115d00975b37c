"""The files of an index folder and what stands in them; docs/SEARCH.md describes them for users.

D joint width, F frames a video. A row is a video's place in the feature files; rows only grow until the
folder is compacted, which starts the next generation of feature files.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.atomic_files import write_text

FORMAT = 1
SETTINGS_FILE = "index.json"
CATALOG_FILE = "catalog.sqlite"
LOCK_FILE = "writer.lock"
FAILURES_FILE = "failures.jsonl"
ENGINE_FOLDER = "faiss"
DTYPE = "float16"


class VideoIndexError(ValueError):
    """An index folder cannot be used; the message names it and says what would be right."""


@dataclass(frozen=True)
class VideoRecord:
    """One video of an index.

    `path` is the file, None where only frames of a store are known; `size`, `mtime_ns` and `digest` (SHA-256)
    tell whether it changed; `times` are the seconds of its F frames (None: not known); `source` is the folder
    or store that it came from.
    """

    video_id: str
    source: str
    path: str | None
    size: int
    mtime_ns: int
    digest: str
    duration: float | None
    times: tuple[float | None, ...]

    @property
    def has_file(self) -> bool:
        """Whether its file is there now."""
        return self.path is not None and Path(self.path).is_file()

    @property
    def is_missing(self) -> bool:
        """Whether it was made of a file that is not there now."""
        return self.path is not None and not self.has_file


@dataclass(frozen=True)
class IndexSettings:
    """What index.json holds: the model (with its hash), D, F and what the pages show.

    `model` is `search.model_identity`'s record.
    """

    model: dict[str, Any]
    width: int
    frames: int
    thumbnails: str = "all"
    engine: str = "faiss"
    engine_options: dict[str, Any] | None = None
    format: int = FORMAT

    def save(self, folder: Path) -> None:
        """Write index.json under a temporary name, force it to disk, rename it."""
        text = json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n"
        write_text(folder / SETTINGS_FILE, text, durable=True)


def read_settings(folder: Path) -> IndexSettings:
    """The settings of an index. Raises `VideoIndexError` where there are none, or of another format."""
    path = folder / SETTINGS_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise VideoIndexError(f"{folder}: no index there; tools/search.py index makes one") from None
    except ValueError as error:
        raise VideoIndexError(f"{path}: cannot be read ({error}); make the index again") from None
    found = values.get("format") if isinstance(values, dict) else None
    if found != FORMAT:
        raise VideoIndexError(f"{path}: format {found!r}, this program reads {FORMAT}; make the index again")
    try:
        return IndexSettings(**values)
    except TypeError as error:
        raise VideoIndexError(f"{path}: {error}; make the index again") from None


def feature_paths(folder: Path, generation: int) -> tuple[Path, Path]:
    """The files of video embeds [rows, D] and frame embeds [rows, F, D]."""
    return folder / f"videos-{generation}.f16", folder / f"frames-{generation}.f16"
