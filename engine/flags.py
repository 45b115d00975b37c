"""What a flag is: one field of `Config`. And the flags of `--frames_from`, which `Config` inherits."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

FRAME_SOURCES = ("store", "videos")
# The order of the groups in --help and on docs/FLAGS.md.
GROUPS = (
    *("run", "data", "videos", "model", "optimisation", "saving and resuming", "evaluation", "no effect"),
)


def flag(
    default: Any,
    group: str,
    help: str,
    *,
    choices: Sequence[str] | None = None,
    aliases: Sequence[str] = (),
    kind: type | None = None,
    bare: str | None = None,
) -> Any:
    """One field of `Config` with its flag's arguments. `kind`: the type of None; `bare`: without a value."""
    metadata = {"group": group, "help": help, "choices": choices, "aliases": tuple(aliases), "kind": kind}
    metadata["bare"] = bare
    return field(default=default, metadata=metadata)


def flags_of(settings: type[Any]) -> list[dataclasses.Field[Any]]:
    """The fields of a class of flags, those of one group together."""
    return sorted(dataclasses.fields(settings), key=lambda item: GROUPS.index(item.metadata["group"]))


@dataclass(frozen=True)
class VideoFlags:
    """Frames straight from video files. The defaults are those of tools/frame2lmdb.py."""

    frames_from: str = flag(
        "store",
        "videos",
        "frames come from frame stores, or are decoded from video files while training (docs/DATA.md)",
        choices=FRAME_SOURCES,
    )
    video_dir: str | None = flag(None, "videos", "folder with the videos; never written to", kind=str)
    eval_video_dir: str | None = flag(
        None, "videos", "folder with the videos to evaluate on [--video_dir]", kind=str
    )
    num_frames: int = flag(30, "videos", "frames taken of a video, of which a clip has --max_frames")
    short_side: int = flag(256, "videos", "pixels of the shorter side of a frame; 0 keeps the size")
    quality: int = flag(95, "videos", "JPEG quality of the frames, 1 to 100")
    clip_from_id: bool = flag(False, "videos", "ids VIDEO_SSSSSS_EEEEEE are seconds S to E of VIDEO")
    video_timeout: float = flag(60.0, "videos", "seconds that decoding a video may take")
    frame_cache: str | None = flag(
        None,
        "videos",
        "folder to keep decoded frames in, which becomes a frame store",
        kind=str,
    )
