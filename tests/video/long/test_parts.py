"""Frames of long videos: which ones, in parts or in order, with the times of their packets."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from tests.video.fixtures import X264, packets_of, read_number, write_video
from video.long.parts import LongVideo, PartJob, WholeJob, long_video, parts_of, run_search_job
from video.sample import Job, Settings
from video.sampling import VideoError, Window

SETTINGS = Settings(short_side=0)
KEYS = {**X264, "g": "25", "keyint_min": "25", "bf": "0"}  # a key frame a second


def numbers_of(jpegs: list[bytes]) -> list[int]:
    import cv2
    import numpy as np

    return [read_number(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)) for jpeg in jpegs]


def frames_of(path: Path, *, distance: float, parts: int = 1) -> tuple[list[float], list[int]]:
    """(seconds, numbers) of the frames of all parts."""
    long = long_video(path, limit=1.0)
    assert long is not None
    times: list[float] = []
    numbers: list[int] = []
    length = long.seconds / parts
    for part in range(parts):
        end = long.seconds if part == parts - 1 else (part + 1) * length
        seconds, jpegs = run_search_job(PartJob(path, distance, part * length, end, SETTINGS))
        times += seconds
        numbers += numbers_of(list(jpegs))
    return times, numbers


@pytest.mark.parametrize("parts", [1, 2])
def test_frames_are_at_multiples_of_the_distance(parts: int, tmp_path: Path) -> None:
    """Without key frames between: exactly the frames at these seconds."""
    path = write_video(tmp_path / "a.mp4", frames=200)
    times, numbers = frames_of(path, distance=2.0, parts=parts)
    assert times == [0.0, 2.0, 4.0, 6.0] and numbers == [0, 50, 100, 150]


def test_a_key_frame_near_the_second_is_taken(tmp_path: Path) -> None:
    """And its own time is told."""
    path = write_video(tmp_path / "a.mp4", frames=200, options={**X264, "g": "70", "keyint_min": "70"})
    times, numbers = frames_of(path, distance=2.0)
    assert numbers == [0, 70, 100, 140] and times == [0.0, 2.8, 4.0, 5.6]


@pytest.mark.parametrize("name", ["a.avi", "a.ts", "cut.mkv"])
def test_files_of_other_kinds_and_files_that_are_cut_off(name: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, frames=200, options=KEYS)
    if name == "cut.mkv":
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    long = long_video(path, limit=1.0)
    assert long is not None and long.seekable == (name == "cut.mkv")
    assert len(parts_of(path, long, distance=2.0, settings=SETTINGS)) == 1
    times, numbers = frames_of(path, distance=2.0)
    assert numbers[:3] == [0, 50, 100] and [round(time) for time in times[:3]] == [0, 2, 4]


def test_varying_frame_rates_give_packet_times(tmp_path: Path) -> None:
    times = [number * 6 + number % 5 for number in range(120)]  # of 1/30 s
    path = write_video(tmp_path / "a.mkv", frames=120, rate=Fraction(30), times=times)
    seconds, numbers = frames_of(path, distance=2.0)
    first = [next(n for n, time in enumerate(times) if time >= 60 * step) for step in range(len(numbers))]
    assert numbers == first
    assert seconds == pytest.approx([times[number] / 30 for number in numbers], abs=0.002)


@pytest.mark.parametrize("whole", [False, True])
def test_damage_costs_only_the_frames_that_it_hits(whole: bool, tmp_path: Path) -> None:
    """`whole`: the packet is no sequence of units any more, so that nothing is trusted."""
    path = write_video(tmp_path / "a.mp4", frames=400, options=KEYS)
    packets, container = packets_of(path)
    place, size = packets[200].pos, packets[200].size
    container.close()
    data = bytearray(path.read_bytes())
    data[place + (0 if whole else 40) : place + size] = b"\xff" * (size if whole else size - 40)
    path.write_bytes(bytes(data))
    times, numbers = frames_of(path, distance=2.0, parts=1 if whole else 2)
    assert len(times) >= 7 and times == sorted(times)
    intact = [pair for pair in zip(numbers, times, strict=True) if not 8 <= pair[1] < 9]
    assert len(intact) >= 7 and all(abs(number / 25 - time) < 0.05 for number, time in intact)


def test_a_short_video_is_decoded_as_ever_and_a_long_one_is_recognised(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=100)
    job = Job("a", path, Window(), Settings(num_frames=4))
    record, jpegs = run_search_job(WholeJob(job, limit=4.0))
    assert record["duration"] == 4.0 and len(jpegs) == 4
    assert run_search_job(WholeJob(job, limit=3.9)) == (LongVideo(4.0, True), [])
    error, _ = run_search_job(WholeJob(Job("x", tmp_path / "x.mp4", Window(), Settings()), limit=3.0))
    assert isinstance(error, VideoError) and error.reason == "missing"


def test_hours_are_cut_into_parts_of_whole_distances() -> None:
    parts = parts_of(Path("a.mp4"), LongVideo(3700.0, True), distance=7.0, settings=SETTINGS)
    assert [part.start for part in parts] == [301.0 * number for number in range(13)]
    assert parts[-1].end >= 3700 and parts[0].share == pytest.approx(301 / 300)
