"""Indexing against decoding alone, and a hundred hours of video in one index.

    python benchmarks/indexing.py speed --folder /scratch           short videos: videos a second, in pairs
    python benchmarks/indexing.py hours --folder /scratch --hours 100    long videos: size, time, latency

`speed`: the same short videos are decoded alone (processes that make the same clips, nothing encoded) and
indexed, one after the other, `--repeat` times; a file cache that is warm for one is warm for the other. The
model is one of random weights and one layer, so that a CPU's time goes into decoding, as with a GPU that
encodes; its vectors have 768 numbers, as SigLIP 2's. `--model NAME` takes another one.

`hours`: each film of an hour repeats the packets of two minutes of moving shapes, 160 x 90 pixels, 10 frames
a second, a key frame every two seconds; every hour has other shapes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from search import Retriever, VideoIndex, index_videos
from search.moments.cutting import Cutting
from search.moments.decoder import Decoder

X264 = {"preset": "ultrafast", "crf": "28"}
QUERIES = ("a red circle", "something blue that moves", "a green square", "yellow", "dark shapes") * 20


def write_shapes(
    path: Path, *, seconds: int, size: tuple[int, int], seed: int, rate: int, keys: int, shot: float = 7.0
) -> Path:
    """A video of moving discs in shots of about `shot` seconds, with a key frame every `keys` seconds."""
    rng = np.random.default_rng(seed)
    width, height = size
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=rate, options={**X264, "g": str(keys * rate)})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        until = 0.0
        for number in range(seconds * rate):
            if number / rate >= until:
                until += rng.uniform(0.4, 1.6) * shot
                ground, colour = rng.integers(0, 256, (2, 3)).tolist()
                place, speed = rng.uniform(0, 1, 2), rng.uniform(-0.02, 0.02, 2)
            picture = np.full((height, width, 3), ground, np.uint8)
            x, y = ((place + speed * number) % 1 * (width, height)).astype(int).tolist()
            cv2.circle(picture, (x, y), height // 5, colour, -1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def repeat(source: Path, target: Path, *, seconds: int) -> Path:
    """`target` repeats the packets of `source` until `seconds`."""
    with av.open(str(source)) as given:
        packets = [
            (bytes(packet), packet.pts, packet.dts, packet.duration, packet.is_keyframe)
            for packet in given.demux(video=0)
            if packet.size
        ]
        stream = given.streams.video[0]
        unit: Any = stream.time_base
        length = max(pts + duration for _, pts, _, duration, _ in packets)  # type: ignore[operator]
        with av.open(str(target), "w") as output:
            copy = output.add_stream_from_template(stream)
            rounds = -(-seconds // round(length * unit))
            for turn in range(rounds):
                for data, pts, dts, duration, key in packets:
                    packet = av.Packet(data)
                    packet.pts, packet.dts = pts + turn * length, dts + turn * length  # type: ignore[operator]
                    packet.duration, packet.is_keyframe = duration, key
                    packet.time_base, packet.stream = Fraction(unit), copy
                    output.mux(packet)
    return target


def retriever_of(arguments: argparse.Namespace) -> Retriever:
    if arguments.model:
        return Retriever.from_pretrained(arguments.model)
    from tests.search.published import write_published

    folder = arguments.folder / "small_model"
    if not folder.exists():
        write_published(folder, vocabulary=64, width=768)
    return Retriever.from_pretrained(str(folder))


def speed(arguments: argparse.Namespace) -> None:
    """Pairs of decoding alone and indexing."""
    videos = arguments.folder / "short"
    if not videos.exists():
        videos.mkdir()
        for number in range(arguments.videos):
            write_shapes(
                videos / f"{number:04d}.mp4", seconds=15, size=(320, 240), seed=number, rate=25, keys=5
            )
    retriever = retriever_of(arguments)
    paths = sorted(videos.iterdir())
    say(f"{len(paths)} videos of 15 s, 320 x 240, {arguments.workers} workers, {os.cpu_count()} cores")
    for turn in range(arguments.repeat):
        began = time.perf_counter()
        decoder = Decoder(paths, frames=retriever.frames, size=retriever.image_size, cutting=Cutting())
        count = sum(1 for _ in decoder.run(workers=arguments.workers, timeout=300))
        decoding = count / (time.perf_counter() - began)
        index = arguments.folder / "short_index"
        shutil.rmtree(index, ignore_errors=True)
        began = time.perf_counter()
        index_videos(
            retriever, index, video_dir=videos, workers=arguments.workers, engine="exact", quiet=True
        )
        indexing = count / (time.perf_counter() - began)
        say(
            f"  {turn + 1}: decoding {decoding:.1f} videos/s, indexing {indexing:.1f} videos/s: "
            f"{indexing / decoding:.0%}"
        )


def hours(arguments: argparse.Namespace) -> None:
    """Hours of video in one index: size, time and latency."""
    videos = arguments.folder / "long"
    videos.mkdir(exist_ok=True)
    for number in range(arguments.hours):
        target = videos / f"hour{number:03d}.mp4"
        if not target.exists():
            part = write_shapes(
                arguments.folder / "part.mp4", seconds=120, size=(160, 90), seed=number, rate=10, keys=2
            )
            repeat(part, target, seconds=3600)
    stored = sum(path.stat().st_size for path in videos.iterdir()) / 1e9
    retriever = retriever_of(arguments)
    index = arguments.folder / "long_index"
    shutil.rmtree(index, ignore_errors=True)
    began, worked = time.perf_counter(), time.process_time()
    report = index_videos(retriever, index, video_dir=videos, workers=arguments.workers, quiet=True)
    took, own = time.perf_counter() - began, time.process_time() - worked
    say(f"{arguments.hours} hours of video, {stored:.2f} GB: {report}")
    say(f"  indexed in {took:.0f} s, {arguments.hours * 3600 / took:.0f} times as fast as they play")
    say(f"  processor time of this process, without those that decode: {own:.0f} s")
    with VideoIndex(index) as opened:
        info = opened.info()
        features = sum(size for name, size in info["files"].items() if name.endswith(".f16"))
        catalogue = info["files"]["catalog.sqlite"]
        say(
            f"  {info['moments']:,} moments, width {info['width']}; features {features / 1e6:.0f} MB, "
            f"catalogue with pictures {catalogue / 1e6:.0f} MB"
        )
        for text in QUERIES[:3]:
            retriever.search(opened, text)
        seconds = []
        for text in QUERIES:
            began, worked = time.perf_counter(), time.process_time()
            results = retriever.search(opened, text)
            seconds.append((time.perf_counter() - began, time.process_time() - worked))
            assert len(results.hits) == min(10, arguments.hours)
    for name, each in zip(("elapsed", "of processors"), np.asarray(seconds).T * 1e3, strict=True):
        p50, p99 = np.percentile(each, [50, 99])
        say(f"  {len(seconds)} queries, {name}: p50 {p50:.0f} ms, p99 {p99:.0f} ms, text encoder included")


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("what", choices=("speed", "hours"))
    add("--folder", type=Path, required=True, help="scratch space")
    add("--model", help="of tools/search.py index --model; default: a small one of random weights")
    add("--videos", type=int, default=120, help="short videos")
    add("--hours", type=int, default=100, help="long videos of an hour each")
    add("--workers", type=int, default=os.cpu_count() or 1)
    add("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(os.cpu_count() or 1)
    {"speed": speed, "hours": hours}[arguments.what](arguments)


if __name__ == "__main__":
    main()
