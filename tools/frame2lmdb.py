"""Prepare a frame store: n frames of every video, as JPEGs under the keys {video_id}_{i}."""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs as a script from any folder

from dataloaders.frame_store_writer import FrameStoreWriter
from tools.video_decoding import VideoError, sample_jpegs

_EXTENSIONS = {
    ".mp4",
    ".mkv",
    ".webm",
    ".avi",
    ".mov",
    ".flv",
    ".mpg",
    ".mpeg",
    ".3gp",
    ".gif",
    ".m4v",
    ".ts",
}


def list_videos(video_dir: Path, json_path: Path | None) -> list[str]:
    """The ids to store: of `json_path` (JSON lines with `video_id`), else of every video in the folder."""
    if json_path is None:
        return sorted({p.stem for p in video_dir.iterdir() if p.suffix.lower() in _EXTENSIONS})
    lines = json_path.read_text(encoding="utf-8-sig").splitlines()
    return list(dict.fromkeys(json.loads(line)["video_id"] for line in lines if line.strip()))


def find_file(video_dir: Path, video_id: str) -> Path | None:
    """The file of a video: its id with any extension that is a video's."""
    paths = [video_dir / f"{video_id}{extension}" for extension in sorted(_EXTENSIONS)]
    return next((path for path in paths if path.is_file()), None)


def _try_video(path: Path | None, *, num_frames: int) -> list[bytes] | str:
    """The JPEGs of a video, or the reason why there are none."""
    if path is None:
        return "missing"
    try:
        return sample_jpegs(path, wanted=num_frames, short_side=256, quality=95)
    except VideoError as error:
        return error.reason


def build(
    video_dir: Path, lmdb_path: Path, *, json_path: Path | None, num_frames: int, num_workers: int
) -> dict[str, str]:
    """Write the store; returns the reasons of the videos that are not in it."""
    video_ids = list_videos(video_dir, json_path)
    failures: dict[str, str] = {}
    paths = [find_file(video_dir, video_id) for video_id in video_ids]
    work = partial(_try_video, num_frames=num_frames)
    with (
        FrameStoreWriter(lmdb_path, settings={"num_frames": num_frames}, expected=len(video_ids)) as writer,
        ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool,
    ):
        todo = [
            (video_id, path)
            for video_id, path in zip(video_ids, paths, strict=True)
            if video_id not in writer
        ]
        results = pool.map(work, [path for _, path in todo])
        for (video_id, _), result in zip(todo, results, strict=True):
            if isinstance(result, str):
                failures[video_id] = result
            else:
                writer.put(video_id, result)
    return failures


def main(argv: list[str] | None = None) -> int:
    """Run the program; returns its exit code: 0 all stored, 1 some failed, 2 usage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--video_dir", type=Path, required=True, help="folder with the videos")
    parser.add_argument("--lmdb_path", type=Path, required=True, help="folder of the store")
    parser.add_argument("--json_path", type=Path, help="JSON lines with video_id (default: all videos there)")
    parser.add_argument("--num_frames", type=int, default=30, help="frames a video (48 for CHVTT)")
    parser.add_argument("--num_workers", type=int, default=2, help="processes")
    args = parser.parse_args(argv)
    failures = build(
        args.video_dir,
        args.lmdb_path,
        json_path=args.json_path,
        num_frames=args.num_frames,
        num_workers=args.num_workers,
    )
    for video_id, reason in failures.items():
        sys.stderr.write(f"not stored: {video_id}: {reason}\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
