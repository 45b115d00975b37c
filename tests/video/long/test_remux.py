"""A part of a video as a file of its own: where it starts, what it holds, what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import av
import numpy as np
import pytest

from common.errors import UserError
from tests.video.fixtures import X264, read_number, write_video
from video.long.remux import copy_part

KEYS = {**X264, "g": "25", "keyint_min": "25"}  # a key frame a second


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("source") / "a.mp4", frames=250, options=KEYS)


def numbers(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        return [read_number(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


@pytest.mark.parametrize("name", ["b.mp4", "b.mkv", "b.mov", "b.ts"])
def test_a_part_starts_at_the_key_frame_before(name: str, source: Path, tmp_path: Path) -> None:
    start = copy_part(source, tmp_path / name, start=3.5, end=6.0)
    assert start == 3.0
    found = numbers(tmp_path / name)
    assert found[:70] == list(range(75, 145)) and 145 <= found[-1] < 155
    assert os.listdir(tmp_path) == [name]


def test_times_start_at_zero_and_frames_keep_their_distance(source: Path, tmp_path: Path) -> None:
    copy_part(source, tmp_path / "b.mp4", start=4.0, end=5.0)
    with av.open(str(tmp_path / "b.mp4")) as container:
        times = [float(frame.time or 0) for frame in container.decode(video=0)]
    np.testing.assert_allclose(times[:20], np.arange(20) / 25, atol=0.001)


def test_sound_is_copied_beside_the_picture(tmp_path: Path) -> None:
    path = write_with_sound(tmp_path / "a.mkv", seconds=8)
    assert copy_part(path, tmp_path / "b.mkv", start=3.2, end=5.0) == 3.0
    with av.open(str(tmp_path / "b.mkv")) as container:
        sound = [float(packet.pts * packet.time_base) for packet in container.demux(audio=0) if packet.size]
    assert -0.05 < sound[0] < 0.1 and 1.8 < sound[-1] < 2.05


def write_with_sound(path: Path, *, seconds: int) -> Path:
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=25, options=KEYS)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        for number in range(25 * seconds):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number % 200, np.uint8), format="rgb24")
            frame.pts = number
            container.mux(picture.encode(frame))
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 320), np.int16), format="s16", layout="mono")
            samples.sample_rate, samples.pts = 8000, 320 * number
            container.mux(sound.encode(samples))
        container.mux([*picture.encode(None), *sound.encode(None)])
    return path


def test_the_video_itself_is_never_the_target(source: Path, tmp_path: Path) -> None:
    before = source.read_bytes()
    (tmp_path / "link.mp4").symlink_to(source)
    os.link(source, tmp_path / "hard.mp4")
    for target in (source, tmp_path / "link.mp4", tmp_path / "hard.mp4"):
        with pytest.raises(UserError, match="is the video itself; give a new name"):
            copy_part(source, target, start=0, end=1)
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "start", "end", "message"),
    [
        ("b.txt", 0, 1, "give a name that ends in .mp4"),
        ("b.webm", 0, 1, "cannot hold these streams .*; name it b.mkv"),
        ("none/b.mp4", 0, 1, "no such folder"),
        ("b.mp4", 2, 1, "from 2 to 1 s: give a start of 0 or more, and an end after it"),
        ("b.mp4", -1, 1, "from -1 to 1 s"),
        ("old.mp4", 0, 1, "exists already; give a new name"),
    ],
)
def test_what_is_refused(
    name: str, start: float, end: float, message: str, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "old.mp4").write_bytes(b"mine")
    with pytest.raises(UserError, match=message):
        copy_part(source, tmp_path / name, start=start, end=end)
    assert os.listdir(tmp_path) == ["old.mp4"] and (tmp_path / "old.mp4").read_bytes() == b"mine"


def test_no_video_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match="a.mp4: "):
        copy_part(tmp_path / "a.mp4", tmp_path / "b.mp4", start=0, end=1)
    assert os.listdir(tmp_path) == ["a.mp4"]
