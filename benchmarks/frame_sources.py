"""How many clips a second and core the loader makes, by where their frames come from.

    python benchmarks/frame_sources.py [--video_dir FOLDER] [--videos N] [--json FILE]

The videos are those of --video_dir, or toy videos. Every round makes each clip once from each source, one
source after another: 12 frames of 30, of 256 pixels, cropped to 224 pixels in full precision, and its text. A
figure is the CPU time of this process and of its decoder process; the table has the least, the median and
the most of the rounds. "first epoch" has an empty cache in every round.

A new source is one function in `SOURCES`.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.report_json import Report, add_json_flag
from dataloaders.examples import Examples, ExamplesBuilder
from dataloaders.frame_source import FrameReader
from dataloaders.frame_store.environment import shared_environment
from dataloaders.frame_store.jpeg import decode_jpeg
from dataloaders.frame_store.reader import FrameStore
from dataloaders.samples import SampleMaker
from dataloaders.tar_shards.dataset import ShardDataset, TextChoice
from dataloaders.tar_shards.index import Source as ShardSource
from dataloaders.tar_shards.index import read_index
from dataloaders.tar_shards.order import ShardOrder
from dataloaders.tar_shards.sample_videos import SampleVideos
from dataloaders.video_frames.cache import CacheOwner, FrameCache
from dataloaders.video_frames.file_table import FileTable, VideoFinder
from dataloaders.video_frames.source import VideoFrames
from dataloaders.video_text import VideoTextDataset
from modules.backbones.tokenizers import ClipTokenizer
from tools import frame2lmdb
from tools.make_toy_dataset import SIZES, make_toy_dataset
from tools.shards.contents import Contents, SplitTexts, StoredFrames, VideoFiles, shard_ends
from tools.shards.writing import ShardPlan, make_shards
from video.listing import VideoFolder
from video.sample import Settings

FRAMES, SIDE, WORDS = 12, 224, 32
CAPTION = "a man in a red shirt is cutting vegetables on a wooden board while he talks to the camera"
PICTURES = 25  # videos whose pictures are held in memory
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Place:
    """What sources are made of: the videos, their store, and a folder for anything else."""

    videos: Path
    ids: list[str]
    store: Path
    scratch: Path
    caches: int = 0


@dataclass
class Source:
    """Gives the clip of video i. `pids`: other processes whose time counts; `close` ends it."""

    clip: Callable[[int], object]
    pids: Callable[[], list[int]] = field(default=list)
    close: Callable[[], None] = field(default=lambda: None)


def from_store(place: Place) -> Source:
    return Source(clips_of(FrameStore(place.store), place))


def from_videos(place: Place) -> Source:
    return decoding(VideoFrames(place.videos, Settings(), timeout=60), place)


def from_videos_as_many_frames(place: Place) -> Source:
    """Not the frames of a store of 30: as many are taken of a video as a clip has."""
    return decoding(VideoFrames(place.videos, Settings(num_frames=FRAMES), timeout=60), place)


def from_empty_cache(place: Place) -> Source:
    place.caches += 1
    cache = FrameCache(place.scratch / f"cache{place.caches}", Settings().as_record())
    return decoding(VideoFrames(place.videos, Settings(), timeout=60, cache=cache), place)


def from_cached_files(place: Place) -> Source:
    """The cache of the last `from_empty_cache`, as a second epoch of the same run finds it."""
    cache = FrameCache(place.scratch / f"cache{place.caches}", Settings().as_record())
    return decoding(VideoFrames(place.videos, Settings(), timeout=60, cache=cache), place)


def from_cached_store(place: Place) -> Source:
    """The same cache in a later run: its videos are in the store."""
    path = place.scratch / f"cache{place.caches}"
    owner = CacheOwner(path, Settings().as_record(), say=lambda _: None)
    owner.open()
    owner.close(merge=True)
    return from_cached_files(place)


def from_shards(place: Place) -> Source:
    """The JPEGs of the store in tar shards on the local disk."""
    return Source(shard_clips(shards_of(place, "frames"), place))


def from_shards_over_http(place: Place) -> Source:
    """The same, through Python's own HTTP server in another process, whose time does not count."""
    folder = shards_of(place, "frames")
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not _answers(port):
        time.sleep(0.05)

    def close() -> None:
        server.kill()
        server.wait()

    return Source(shard_clips(folder, place, f"http://127.0.0.1:{port}"), close=close)


def from_shards_of_videos(place: Place) -> Source:
    """The video files in tar shards."""
    videos = SampleVideos(Settings(), timeout=60)

    def pids() -> list[int]:
        return [videos._decoder.pid] if videos._decoder.pid is not None else []

    return Source(shard_clips(shards_of(place, "videos"), place, videos=videos), pids, videos.close)


def shards_of(place: Place, contents: str) -> Path:
    """A folder of shards of 25 samples, made once."""
    folder = place.scratch / f"shards of {contents}"
    if not folder.exists():
        examples = examples_of(place)
        files: Contents = StoredFrames(FrameStore(place.store))
        if contents == "videos":
            finder = VideoFinder(place.videos, clip_from_id=False)
            files = VideoFiles(place.videos, FileTable.of(place.ids, finder))
        order = list(range(len(place.ids)))
        ends = shard_ends(None, len(order), samples=25, most_bytes=None)
        plan = ShardPlan(folder, files, SplitTexts(examples), order, ends, {})
        make_shards(plan, workers=1, overwrite=False, say=lambda _: None)
    return folder


def shard_clips(
    folder: Path, place: Place, address: str | None = None, videos: SampleVideos | None = None
) -> Callable[[int], object]:
    names = sorted(path.name for path in folder.glob("*.tar"))
    sizes = read_index(str(folder))
    assert sizes is not None
    source = ShardSource(
        "shards", tuple(f"{address or folder}/{name}" for name in names), tuple(sizes[name] for name in names)
    )
    order = ShardOrder([source], seed=0, batch_size=1, readers=1, buffer=25)
    maker = SampleMaker(ClipTokenizer(), max_words=WORDS, max_frames=FRAMES, image_size=SIDE)
    dataset = ShardDataset(order, maker, TextChoice("english"), readers=range(1), slots=1, videos=videos)
    return lambda index: dataset[0, index, 0]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def jpeg_encoding(place: Place) -> Source:
    """What of a clip from videos is the encoding of its pictures: the way through JPEG, first half."""
    pictures = [[decode_jpeg(jpeg)[..., ::-1] for jpeg in jpegs] for jpegs in jpegs_of(place)]
    quality = [cv2.IMWRITE_JPEG_QUALITY, Settings().quality]
    return Source(lambda i: [cv2.imencode(".jpg", picture, quality) for picture in pictures[i % PICTURES]])


def jpeg_decoding(place: Place) -> Source:
    """The second half."""
    jpegs = jpegs_of(place)
    return Source(lambda i: [decode_jpeg(jpeg) for jpeg in jpegs[i % PICTURES]])


def jpegs_of(place: Place) -> list[list[bytes]]:
    """The JPEGs of a clip of some videos."""
    store, numbers = FrameStore(place.store), range(0, 30, 30 // FRAMES)[:FRAMES]
    return [store.read_jpegs(video_id, numbers) for video_id in place.ids[:PICTURES]]


SOURCES: dict[str, Callable[[Place], Source]] = {
    "frame store": from_store,
    "videos": from_videos,
    f"videos, --num_frames {FRAMES}": from_videos_as_many_frames,
    "encoding the JPEGs of a clip alone": jpeg_encoding,
    "decoding them alone": jpeg_decoding,
    "videos with --frame_cache, first epoch": from_empty_cache,
    "videos with --frame_cache, second epoch": from_cached_files,
    "videos with --frame_cache, next run": from_cached_store,
    "tar shards of frames": from_shards,
    "tar shards of frames over HTTP": from_shards_over_http,
    "tar shards of videos": from_shards_of_videos,
}


def decoding(frames: VideoFrames, place: Place) -> Source:
    def close() -> None:
        frames.close()
        if frames.cache is not None:
            shared_environment(frames.cache.path).close()

    def pids() -> list[int]:
        return [frames._decoder.pid] if frames._decoder.pid is not None else []

    return Source(clips_of(frames, place), pids, close)


def clips_of(frames: FrameReader, place: Place) -> Callable[[int], object]:
    settings = {"max_words": WORDS, "max_frames": FRAMES, "image_size": SIDE}
    dataset = VideoTextDataset(examples_of(place), frames, ClipTokenizer(), view="pairs", **settings)  # type: ignore[arg-type]
    return dataset.__getitem__


def examples_of(place: Place) -> Examples:
    examples = ExamplesBuilder()
    for video_id in place.ids:
        examples.add(video_id, CAPTION)
    return examples.build()


def cpu_seconds(pids: list[int]) -> float:
    """Of this process and of others that live."""
    ticks = 0
    for pid in pids:
        cells = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        ticks += int(cells[11]) + int(cells[12])
    return time.process_time() + ticks / TICKS


def measure(make: Callable[[Place], Source], place: Place) -> float:
    """CPU seconds of a clip, without the first one, with which a decoder process starts."""
    source = make(place)
    source.clip(0)
    before = cpu_seconds(source.pids())
    for index in range(1, len(place.ids)):
        source.clip(index)
    taken = cpu_seconds(source.pids()) - before
    source.close()
    return taken / (len(place.ids) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--video_dir", type=Path, help="videos to read [toy videos]")
    parser.add_argument("--videos", type=int, default=100, help="at most so many of them")
    parser.add_argument("--rounds", type=int, default=3)
    add_json_flag(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    columns = {"ms_per_clip": "CPU ms a clip, median", "least": "clips/s and core, least"}
    columns |= {"clips_per_second": "median", "most": "most", "of_store": "times the store"}
    report = Report("frame_sources", settings=vars(args), columns=columns)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        folder = args.video_dir or scratch / "toy" / "msrvtt" / "videos"
        if args.video_dir is None:
            make_toy_dataset(scratch / "toy", sizes=SIZES["small"], parts=("msrvtt",))
        flags = ("--video_dir", str(folder), "--lmdb_path", str(scratch / "store"))
        frame2lmdb.main([*flags, "--num_workers", "1"])
        store = FrameStore(scratch / "store")
        ids = [video_id for video_id in VideoFolder(folder).list_videos() if video_id in store][: args.videos]
        place = Place(folder, ids, scratch / "store", scratch)
        taken: dict[str, list[float]] = {row: [] for row in SOURCES}
        for _ in range(args.rounds):
            for row, make in SOURCES.items():
                taken[row].append(measure(make, place))
    base = statistics.median(taken["frame store"])
    for row, seconds in taken.items():
        middle = statistics.median(seconds)
        report.add(
            row,
            ms_per_clip=middle * 1e3,
            least=1 / max(seconds),
            clips_per_second=1 / middle,
            most=1 / min(seconds),
            of_store=middle / base,
        )
    report.note(f"{len(ids)} videos, {args.rounds} rounds")
    report.close(args.json)


if __name__ == "__main__":
    main()
