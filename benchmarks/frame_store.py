"""How fast frame stores are written, by this project and in the published way, on the same clips.

    python benchmarks/frame_store.py [--processes 1 2] [--clips 4] [--video_dir FOLDER]

The published way: for each of 30 frames seek with OpenCV to linspace(0, count - 10, 30), read, and store the
picture in full size. Both ways run in the same pool and write to the same kind of store. The clips are made
first (x264 veryfast, crf 23, a key frame every 250 frames unless the row says otherwise): a pan over a
detailed background with moving shapes. Clips of five minutes repeat thirty seconds ten times. With
--video_dir the videos of that folder are used instead.

"CPU s" is the workers' processor time per video, on which other work on the machine has little influence.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dataloaders.frame_store.writer import FrameStoreWriter
from video.listing import VideoFolder
from video.sample import Job, Settings, run_job
from video.sampling import VideoError, Window
from video.worker_pool import Fault, Output, WorkerPool

FRAMES = 30
SLACK = 0.25
SECONDS = 15
FPS = 25


@dataclass(frozen=True)
class Kind:
    """Clips of one kind: `repeats` x `seconds` long, with a key frame every `gop` frames."""

    name: str
    size: tuple[int, int]
    gop: int = 250
    seconds: int = SECONDS
    repeats: int = 1


KINDS = (
    Kind("15 s, 320x240", (320, 240)),
    Kind("15 s, 640x360", (640, 360)),
    Kind("15 s, 1280x720", (1280, 720)),
    Kind("5 min, 1920x1080", (1920, 1080), seconds=30, repeats=10),
    Kind("5 min, 1920x1080, key frame every 2 s", (1920, 1080), gop=50, seconds=30, repeats=10),
)


def published_way(path: Path) -> list[bytes]:
    """Full-size JPEGs of 30 frames, with a seek for each."""
    capture = cv2.VideoCapture(str(path))
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    jpegs = []
    for position in np.linspace(0, count - 10, FRAMES, dtype=int):
        capture.set(cv2.CAP_PROP_POS_FRAMES, int(position))
        done, picture = capture.read()
        if done:
            jpegs.append(cv2.imencode(".jpg", picture)[1].tobytes())
    capture.release()
    return jpegs


def work(task: tuple[str, Path]) -> Output:
    """((CPU seconds,), JPEGs) of a video, made in the way that the task names."""
    way, path = task
    started = time.process_time()
    if way == "published":
        jpegs = list(published_way(path))
    else:
        settings = Settings(num_frames=FRAMES, slack=SLACK if way == "slack" else 0.0)
        answer, buffers = run_job(Job(path.stem, path, Window(), settings))
        if isinstance(answer, VideoError):
            raise answer
        jpegs = list(buffers)
    return (time.process_time() - started,), jpegs


@dataclass
class Timing:
    """Speed of one way: videos a second, and CPU seconds and bytes a video."""

    rate: float
    cpu: float
    size: float
    failed: int


def measure(way: str, clips: list[Path], *, processes: int, store: Path) -> Timing:
    """Time from the first task to the last commit, in a pool whose workers have started."""
    cpu, size, failed = 0.0, 0, 0
    with WorkerPool(work, workers=processes, timeout=3600) as pool, FrameStoreWriter(store) as writer:
        list(pool.run([("published", Path("none"))] * processes))
        started = time.perf_counter()
        for number, ((_, path), outcome) in enumerate(pool.run([(way, clip) for clip in clips])):
            if isinstance(outcome, Fault) or not outcome[1]:
                failed += 1
                continue
            (seconds,), jpegs = outcome
            cpu += seconds
            size += sum(map(len, jpegs))
            writer.put(f"{path.stem}_{number}", jpegs)
        writer.commit()
        elapsed = time.perf_counter() - started
    stored = max(1, len(clips) - failed)
    return Timing(stored / elapsed, cpu / stored, size / stored, failed)


# Clips


def make_clip(path: Path, kind: Kind, *, seed: int) -> Path:
    """Encode a clip of `kind`; different for every seed."""
    once = path.with_suffix(".once.mp4")
    width, height = kind.size
    options = {"preset": "veryfast", "crf": "23", "g": str(kind.gop)}
    with av.open(str(once), "w") as container:
        stream: Any = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        background = textured(width + width // 2, height + height // 2, seed=seed)
        for number in range(kind.seconds * FPS):
            picture = drawn(background, number, width=width, height=height, seed=seed)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode(None))
    repeat(once, path, times=kind.repeats)
    once.unlink()
    return path


def textured(width: int, height: int, *, seed: int) -> np.ndarray:
    """A picture with details of all sizes, uint8 [height, width, 3]."""
    random = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3), np.float32)
    for octave in range(2, 9):
        coarse = random.normal(size=(2**octave, 2**octave, 3)).astype(np.float32)
        picture += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) / octave**0.7
    return np.clip(128 + 45 * picture, 0, 255).astype(np.uint8)


def drawn(background: np.ndarray, number: int, *, width: int, height: int, seed: int) -> np.ndarray:
    """Frame `number` of a clip: a window that moves over the background, and two shapes."""
    x = int((width // 2 - 1) * (0.5 + 0.5 * np.sin(number / 90 + seed)))
    y = int((height // 2 - 1) * (0.5 + 0.5 * np.cos(number / 130)))
    picture = background[y : y + height, x : x + width].copy()
    across, down = (
        int(width * (0.5 + 0.4 * np.sin(number / 25))),
        int(height * (0.5 + 0.4 * np.cos(number / 31))),
    )
    cv2.circle(picture, (across, down), height // 8, (40, 200, 240), -1)
    corner = (width - across, height - down)
    cv2.rectangle(picture, corner, (corner[0] + height // 8, corner[1] + height // 8), (200, 40, 90), -1)
    return picture


def repeat(source: Path, path: Path, *, times: int) -> None:
    """Write the packets of `source` `times` times, one copy after the other."""
    with av.open(str(source)) as original, av.open(str(path), "w") as container:
        template = original.streams.video[0]
        add = getattr(container, "add_stream_from_template", None)
        stream = add(template) if add else container.add_stream(template=template)
        packets = [packet for packet in original.demux(template) if packet.size]
        copies = [(bytes(p), p.pts, p.dts, p.is_keyframe, p.duration) for p in packets]
        span = len(copies) * int(Fraction(1, FPS) / template.time_base)
        for copy in range(times):
            for data, pts, dts, key, duration in copies:
                packet = av.Packet(data)
                packet.pts, packet.dts, packet.duration = pts + copy * span, dts + copy * span, duration
                packet.time_base, packet.is_keyframe, packet.stream = template.time_base, key, stream
                container.mux(packet)


# The table


def rows(kind: str, clips: list[Path], *, processes: list[int], folder: Path) -> None:
    """Print the rows of one kind of clip."""
    ways = ["published", "ours"] if "5 min" not in kind else ["published", "ours", "slack"]
    for count in processes:
        base: Timing | None = None
        for way in ways:
            store = folder / "store"
            shutil.rmtree(store, ignore_errors=True)
            # The faster way repeats the clips more often, so that its time is long enough to measure.
            rounds = (1 if way == "published" else 2 if "5 min" in kind else 8) * -(-count // len(clips))
            timing = measure(way, clips * rounds, processes=count, store=store)
            base = base or timing
            name = {"slack": f"ours, --slack {SLACK}"}.get(way, way)
            print(
                f"| {kind} | {count} | {name} | {timing.rate:.2f} | {timing.rate / base.rate:.1f} | "
                f"{timing.cpu:.2f} | {base.cpu / timing.cpu:.1f} | {timing.size / 1e3:,.0f} | "
                f"{timing.failed} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--clips", type=int, default=4, help="clips of each 15 s kind (5 min: one a process)")
    parser.add_argument("--kinds", type=int, nargs="+", help="rows to run, from 0 (default: all)")
    parser.add_argument("--video_dir", type=Path, help="use the videos of this folder instead")
    args = parser.parse_args()
    print(f"OpenCV {cv2.__version__}, PyAV {av.__version__}, {FRAMES} frames a video\n")
    print("| clips | processes | way | videos/s | times | CPU s | times | kB a video | failed |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.video_dir:
            videos = VideoFolder(args.video_dir)
            clips = [path for path in map(videos.find, sorted(videos.files)) if path]
            rows(args.video_dir.name, clips, processes=args.processes, folder=folder)
            return
        for number in args.kinds or range(len(KINDS)):
            kind = KINDS[number]
            count = args.clips if kind.repeats == 1 else 1
            clips = [make_clip(folder / f"clip{seed}.mp4", kind, seed=seed) for seed in range(count)]
            rows(kind.name, clips, processes=args.processes, folder=folder)


if __name__ == "__main__":
    main()
