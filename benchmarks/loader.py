"""How much CPU time the loader takes for a clip, stage by stage, beside the published way and decoding alone.

    python benchmarks/loader.py [--video_dir FOLDER] [--short_sides 256 720] [--json FILE]

One process with one thread. Every round measures all rows, clip by clip in turn, and a row is the mean over
the clips of the least CPU time of its rounds: other work on the machine then changes the rows alike, and
little. The clips are made here (a pan over a detailed background with moving shapes), or are frames of the
videos of --video_dir; they are stored as JPEGs of quality 90. "whole" is what a worker does for a batch:
reading, decoding, resizing, augmenting, texts, and copying the clip into the batch.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import default_collate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.baseline import SIZE, load_clip
from benchmarks.frame_store import drawn, textured
from benchmarks.report_json import Report, add_json_flag
from dataloaders.augmentation import draw_augmentation
from dataloaders.colour_augmentation import augment_colours
from dataloaders.examples import ExamplesBuilder
from dataloaders.frame_store.jpeg import decode_jpeg
from dataloaders.frame_store.reader import FrameStore
from dataloaders.frame_store.writer import FrameStoreWriter
from dataloaders.transforms import excess_of_resize, fill_clip
from dataloaders.video_text import VideoTextDataset
from modules.backbones.tokenizers import ClipTokenizer
from video.listing import VideoFolder

FRAMES, WORDS, BATCH, QUALITY = 12, 32, 4, 90
CAPTION = "a man in a red shirt is cutting vegetables on a wooden board while he talks to the camera"


def made_clip(number: int) -> list[np.ndarray]:
    """Frames of 1280 x 720 pixels, BGR."""
    background = textured(1920, 1080, seed=number)
    return [drawn(background, 25 * i, width=1280, height=720, seed=number) for i in range(FRAMES)]


def frames_of(path: Path) -> list[np.ndarray]:
    """Equally spaced frames of a video, BGR; fewer if it cannot be read."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    for position in np.linspace(0, capture.get(cv2.CAP_PROP_FRAME_COUNT) - 10, FRAMES, dtype=int):
        capture.set(cv2.CAP_PROP_POS_FRAMES, int(position))
        done, frame = capture.read()
        frames += [frame] if done else []
    return frames


def clips(video_dir: Path | None, count: int) -> Iterator[list[np.ndarray]]:
    if video_dir is None:
        yield from map(made_clip, range(count))
        return
    videos = VideoFolder(video_dir)
    found = filter(None, map(videos.find, sorted(videos.files)))
    readable = (frames for frames in map(frames_of, found) if len(frames) == FRAMES)
    for _, frames in zip(range(count), readable, strict=False):
        yield frames


def write_store(path: Path, pictures: list[list[np.ndarray]], short_side: int) -> FrameStore:
    with FrameStoreWriter(path) as writer:
        for number, frames in enumerate(pictures):
            writer.put(f"v{number}", [encode(frame, short_side) for frame in frames])
    return FrameStore(path)


def encode(frame: np.ndarray, short_side: int) -> bytes:
    scale = short_side / min(frame.shape[:2])
    size = (round(frame.shape[1] * scale), round(frame.shape[0] * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    resized = cv2.resize(frame, size, interpolation=way)
    return cv2.imencode(".jpg", resized, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def stages(store: FrameStore, count: int) -> dict[str, Callable[[int], Any]]:
    """Row -> what it does for clip `i`."""
    names = [f"v{number}" for number in range(count)]
    jpegs = [store.read_jpegs(name, range(FRAMES)) for name in names]
    pictures = [[decode_jpeg(jpeg) for jpeg in clip] for clip in jpegs]
    fitting = [excess_of_resize(SIZE)] * FRAMES
    halves = [[decode_jpeg(jpeg, fitting[0]) for jpeg in clip] for clip in jpegs]
    augmentations = [
        draw_augmentation(FRAMES, per="frame", rng=np.random.default_rng(i)) for i in range(count)
    ]
    out = torch.empty(FRAMES, 3, SIZE, SIZE, dtype=torch.uint8)
    tokenizer = ClipTokenizer()

    def decode_each(i: int) -> None:
        for jpeg in jpegs[i]:
            decode_jpeg(jpeg)

    def opencv_each(i: int) -> None:
        for jpeg in jpegs[i]:
            cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)

    def scaled_each(i: int) -> None:
        for jpeg in jpegs[i]:
            decode_jpeg(jpeg, fitting[0])

    examples = ExamplesBuilder()
    for name in names:
        examples.add(name, CAPTION)
    built = examples.build()

    def whole(**settings: Any) -> Callable[[int], Any]:
        dataset = VideoTextDataset(
            built,
            store,
            tokenizer,
            view="pairs",
            max_words=WORDS,
            max_frames=FRAMES,
            image_size=SIZE,
            **settings,
        )
        return lambda i: default_collate([dataset[i]])

    def published(augment: bool) -> Callable[[int], Any]:
        return lambda i: torch.stack([load_clip(store.read_jpegs(names[i], range(FRAMES)), augment=augment)])

    return {
        "read": lambda i: store.read_jpegs(names[i], range(FRAMES)),
        "decode": decode_each,
        "decode, OpenCV": opencv_each,
        "decode, scaled": scaled_each,
        "resize": lambda i: fill_clip(out, pictures[i]),
        "resize of scaled": lambda i: fill_clip(out, halves[i]),
        "crop of the augmentation": lambda i: augmentations[i].fill(out, pictures[i]),
        "colours, on this CPU": lambda i: augment_colours(out, torch.from_numpy(augmentations[i].colours)),
        "text": lambda _: tokenizer.encode(CAPTION, WORDS),
        "copy into the batch": lambda _: torch.stack([out]),
        "whole": whole(),
        "whole, --decode_scale auto": whole(scaled_decoding=True),
        "published way": published(False),
        "whole, augmented for a GPU": whole(scaled_decoding=True, augment="frame"),
        "whole, augmented here": whole(scaled_decoding=True, augment="frame", colours_here=True),
        "published way, augmented": published(True),
    }


def measure(work: dict[str, Callable[[int], Any]], *, count: int, seconds: float) -> dict[str, float]:
    """CPU seconds of a clip in each row; rounds are repeated for `seconds`, at least two."""
    least = {(row, i): float("inf") for row in work for i in range(count)}
    end = time.monotonic() + seconds
    rounds = 0
    while rounds < 2 or time.monotonic() < end:
        for i in range(count):
            for row, do in work.items():
                started = time.process_time()
                do(i)
                least[row, i] = min(least[row, i], time.process_time() - started)
        rounds += 1
    return {row: sum(least[row, i] for i in range(count)) / count for row in work}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--video_dir", type=Path, help="frames of the videos of this folder")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--short_sides", type=int, nargs="+", default=[256, 720], help="pixels of the stores")
    parser.add_argument("--seconds", type=float, default=15, help="for each store")
    add_json_flag(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    report = Report(
        "loader",
        settings=vars(args),
        columns={
            "ms_per_clip": "CPU ms a clip",
            "clips_per_second": "clips/s and core",
            "times_published": "times the published way",
            "of_decoding": "of decoding alone",
        },
    )
    pictures = list(clips(args.video_dir, args.clips))
    with tempfile.TemporaryDirectory() as name:
        for short_side in args.short_sides:
            store = write_store(Path(name) / str(short_side), pictures, short_side)
            rows = measure(stages(store, len(pictures)), count=len(pictures), seconds=args.seconds)
            for row, taken in rows.items():
                base = rows["published way, augmented" if "augmented" in row else "published way"]
                is_whole = row.startswith(("whole", "published"))
                report.add(
                    f"{short_side} pixels, {row}",
                    ms_per_clip=taken * 1e3,
                    clips_per_second=1 / taken,
                    times_published=base / taken if is_whole else None,
                    of_decoding=rows["decode"] / taken if is_whole else None,
                )
            store.close()
    report.close(args.json)


if __name__ == "__main__":
    main()
