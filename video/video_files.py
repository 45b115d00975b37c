"""Which files are videos: by extension if it is a common one, else by content.

A file with a common extension of videos counts as one without being opened. Files with common extensions of
pictures, sound, text and data are left out without being opened, because FFmpeg reads many of them as a
video of one picture. Any other file is a video if FFmpeg opens it and it has a video stream. So 100,000
pictures in a folder of videos take no time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from video.streams import is_video
from video.worker_pool import Fault, Output, WorkerPool


def videos_by_content(paths: Sequence[Path], *, workers: int, timeout: float) -> set[Path]:
    """Those of `paths` that are videos. Separate processes open them: a file may crash its process."""
    if not paths:
        return set()
    with WorkerPool(_probe_file, workers=min(workers, len(paths)), timeout=timeout) as pool:
        return {path for path, outcome in pool.run(paths) if not isinstance(outcome, Fault) and outcome[0]}


def _probe_file(path: Path) -> Output:
    return is_video(path), []


def describe_left_out(left_out: Counter[str]) -> str:
    """The counts in words: ".txt (3), hidden (1)"; after ten kinds, one number for the others."""
    counts = left_out.most_common(10)
    rest = sum(left_out.values()) - sum(count for _, count in counts)
    counts += [("others", rest)] if rest else []
    return ", ".join(f"{kind} ({count})" for kind, count in counts)
