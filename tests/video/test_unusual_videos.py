"""Videos that need more than decoding: the stored pictures and times are those that a player shows."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from dataloaders.frame_store.reader import decode_jpeg
from search.clips import clip_of_job
from tests.video import fixtures as make
from tests.video import unusual_videos as unusual
from tests.video.fixtures import X264, read_number, write_video
from video.deinterlacing import InterlacedFrame, deinterlace, with_neighbours
from video.frame_times import FrameClock, seconds_before
from video.sample import Job, Settings, run_job
from video.sampling import VideoError, Window

WHOLE = Window()


def stored(path: Path, *, frames: int = 5, window: Window = WHOLE) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The record and the pictures of a video in full size."""
    record, jpegs = run_job(Job("clip", path, window, Settings(num_frames=frames, short_side=0)))
    assert not isinstance(record, VideoError), record
    return record, [decode_jpeg(jpeg) for jpeg in jpegs]


def numbers(pictures: list[np.ndarray]) -> list[int]:
    return [read_number(picture) for picture in pictures]


# HDR

# What FFmpeg 5.1 makes of the patches by the filters in the docstring of video/tone_mapping.py.
FFMPEG_OF_PQ = [
    [215, 215, 215],
    [250, 250, 250],
    [108, 108, 108],
    [235, 0, 12],
    [0, 208, 50],
    [0, 53, 225],
    [200, 143, 126],
    [0, 0, 0],
]
FFMPEG_OF_HLG = [
    [215, 215, 215],
    [249, 249, 249],
    [114, 114, 114],
    [237, 0, 48],
    [0, 218, 65],
    [0, 73, 229],
    [201, 138, 127],
    [0, 0, 0],
]


@pytest.mark.parametrize(
    ("name", "transfer", "patches", "expected"),
    [
        ("PQ", "smpte2084", unusual.PQ_PATCHES, FFMPEG_OF_PQ),
        ("HLG", "arib-std-b67", unusual.HLG_PATCHES, FFMPEG_OF_HLG),
    ],
)
def test_hdr_is_mapped_to_sdr_as_by_ffmpeg(
    name: str, transfer: str, patches: Any, expected: list[list[int]], tmp_path: Path
) -> None:
    record, pictures = stored(unusual.write_hdr(tmp_path / "hdr.mkv", patches, transfer=transfer), frames=1)
    middles = pictures[0][unusual.PATCH // 2, unusual.PATCH // 2 :: unusual.PATCH]
    assert np.abs(middles.astype(int) - expected).max() <= 3
    assert record["tone_mapped"] == name


def test_ten_bits_alone_are_no_hdr(tmp_path: Path) -> None:
    path = write_video(tmp_path / "ten.mkv", frames=5, codec="libx264", pix_fmt="yuv420p10le")
    record, pictures = stored(path)
    assert "tone_mapped" not in record and numbers(pictures) == record["indices"]


# Interlaced video


@pytest.mark.parametrize("suffix", ["mp4", "ts"])
def test_interlaced_frames_are_stored_without_combs(suffix: str, tmp_path: Path) -> None:
    path = unusual.write_interlaced(tmp_path / "fields.mp4", frames=12)
    record, pictures = stored(make.remux(tmp_path / f"again.{suffix}", path))
    assert record["deinterlaced"] is True and record["source_frames"] == 12
    for index, picture in zip(record["indices"][1:], pictures[1:], strict=True):  # the first has no past
        # The inner part: near the border the filter has fewer lines to look at.
        seen, found = unusual.field_picture(2 * index)[8:-8].astype(int), picture[8:-8].astype(int)
        assert np.abs(found - seen).mean() < 4
        assert np.abs(np.diff(found.mean(axis=2), axis=0)).max() < 60  # combs differ by 160


def test_deinterlacing_gives_the_pictures_of_ffmpegs_filter_on_the_whole_video(tmp_path: Path) -> None:
    path = unusual.write_interlaced(tmp_path / "fields.mp4", frames=8)
    graph = av.filter.Graph()
    with av.open(str(path)) as container:
        steps = [graph.add_buffer(template=container.streams.video[0])]
        steps += [graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")]
        for step, following in zip(steps, steps[1:], strict=False):
            step.link_to(following)
        graph.configure()
        frames = list(container.decode(video=0))
    for frame in frames:
        graph.push(frame)
    graph.push(None)
    expected: list[Any] = [graph.pull() for _ in frames]
    with av.open(str(path)) as container:
        for wanted, fields in zip(expected, with_neighbours(container.decode(video=0)), strict=True):
            assert isinstance(fields, InterlacedFrame)
            pts = fields.frame.pts
            assert np.array_equal(deinterlace(fields).to_ndarray(), wanted.to_ndarray())
            assert fields.frame.pts == pts  # it is still read by others
    tiny = av.VideoFrame(4, 2, "yuv420p")
    assert deinterlace(InterlacedFrame(None, tiny, None)) is tiny


# Several video streams

FILM = {"frames": 30, "size": (80, 48), "default": True, "number": 0}
PICTURE = {"frames": 1, "size": (320, 240), "default": False, "number": 500}


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize(
    ("streams", "chosen"),
    [
        ([PICTURE, FILM], 1),
        ([FILM, PICTURE], 0),
        ([{**FILM, "default": False, "number": 500}, FILM], 1),  # the default
        ([{**FILM, "number": 500}, {**FILM, "size": (160, 96)}], 1),  # two defaults: the larger
        ([FILM, {**FILM, "number": 500}], 0),  # equal ones: the first
    ],
)
def test_of_several_streams_the_film_is_stored(
    streams: list[dict[str, Any]], chosen: int, suffix: str, tmp_path: Path
) -> None:
    record, pictures = stored(unusual.write_streams(tmp_path / f"several.{suffix}", *streams))
    assert record["stream"] == chosen
    assert numbers(pictures) == record["indices"] == [0, 7, 14, 22, 29]


def test_a_picture_that_is_marked_as_the_default_is_not_preferred_to_a_film(tmp_path: Path) -> None:
    path = unusual.write_streams(
        tmp_path / "cover.mp4", {**PICTURE, "default": True}, {**FILM, "default": False}
    )
    assert stored(path)[0]["stream"] == 1


# Times


def test_times_are_those_of_the_frames_where_the_rate_varies(tmp_path: Path) -> None:
    """90 frames in 3 seconds, then one every 5 seconds."""
    shown = [*range(90), 240, 390]
    path = write_video(tmp_path / "screen.mp4", frames=92, rate=30, times=shown)
    for name in ("screen.mp4", "screen.ts"):
        copy = path if name == path.name else make.remux(tmp_path / name, path)
        record, pictures = stored(copy, frames=30)
        assert numbers(pictures) == record["indices"]
        expected = [shown[index] / 30 for index in record["indices"]]
        assert record["times"] == pytest.approx(expected, abs=0.002)
        clip = clip_of_job(record, run_job(Job("x", copy, WHOLE, Settings()))[1], frames=12, size=32)
        assert set(clip.times) <= set(record["times"])


def test_times_count_from_the_start_of_the_file(tmp_path: Path) -> None:
    """As players do: sound may begin before the pictures; a file whose all begins late begins at zero."""
    record, _ = stored(unusual.write_with_sound(tmp_path / "late.mp4", pictures=2, sound=4, later=2))
    assert record["times"] == pytest.approx([2.0, 2.5, 3.0, 3.4, 3.9], abs=0.03)
    assert record["decoded_until"] == pytest.approx(4.0, abs=0.03) and "decoded_share" not in record
    source = write_video(tmp_path / "source.mp4", frames=50)
    record, _ = stored(make.remux(tmp_path / "moved.ts", source, shift=100))
    assert record["times"] == pytest.approx([0.0, 0.48, 0.96, 1.48, 1.96], abs=0.001)


def test_times_of_a_part_are_those_in_the_whole_file(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", frames=100)
    record, _ = stored(path, window=Window(1, 2))
    assert record["times"] == pytest.approx([1.0, 1.24, 1.48, 1.72, 1.96], abs=0.001)


def test_an_avi_that_is_cut_off_has_the_share_of_its_header(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", frames=100, codec="mpeg4")
    assert "decoded_share" not in stored(path)[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    record, _ = stored(path)
    assert record["decoded_share"] == pytest.approx(record["source_frames"] / 100, abs=0.01)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "flv"])
def test_a_file_that_is_cut_off_has_times_of_what_decodes(suffix: str, tmp_path: Path) -> None:
    options = {"movflags": "+faststart"} if suffix == "mp4" else {}
    whole = write_video(tmp_path / f"whole.{suffix}", frames=200, container_options=options)
    assert "decoded_share" not in stored(whole)[0]
    path = tmp_path / f"half.{suffix}"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    record, pictures = stored(path)
    assert record["times"] == pytest.approx([number / 25 for number in numbers(pictures)], abs=0.002)
    assert record["times"][-1] < record["decoded_until"] < 6 < record["duration"]
    assert record["decoded_share"] == pytest.approx(record["source_frames"] / 200, abs=0.02)
    jpegs = run_job(Job("x", path, WHOLE, Settings(num_frames=5)))[1]
    clip = clip_of_job(record, jpegs, frames=5, size=32)
    assert clip.times == tuple(record["times"]) and clip.duration == record["decoded_until"]
    part, _ = stored(path, window=Window(1, 7))
    assert part["decoded_share"] < 0.95


@pytest.mark.parametrize("sound_goes_on", [True, False])
def test_sound_that_goes_on_without_pictures_is_no_damage(sound_goes_on: bool, tmp_path: Path) -> None:
    """FLV has one duration for all streams."""
    path = unusual.write_with_sound(tmp_path / "clip.flv", pictures=4 if sound_goes_on else 8, sound=8)
    record, _ = stored(path)
    assert record["duration"] == pytest.approx(8.2, abs=0.3) and "decoded_share" not in record
    if not sound_goes_on:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert stored(path)[0]["decoded_share"] == pytest.approx(0.5, abs=0.2)


def test_a_copy_without_reencoding_from_the_middle_is_no_damaged_file(tmp_path: Path) -> None:
    """Its header has packets that are decoded but not shown."""
    source = write_video(tmp_path / "source.mp4", frames=200, options={**X264, "g": "100"})
    record, _ = stored(make.remux(tmp_path / "cut.mp4", source, shift=-55))
    assert record["source_frames"] == 145 and "decoded_share" not in record


def test_packets_that_are_damaged_lower_the_share(tmp_path: Path) -> None:
    source = write_video(tmp_path / "source.avi", frames=100, codec="mpeg4", options={"g": "1"})
    packets, container = make.packets_of(source)
    places = [(packet.pos, packet.size) for packet in packets[:60]]
    container.close()
    data = bytearray(source.read_bytes())
    for position, size in places:
        data[position : position + size] = bytes(size)
    source.write_bytes(data)
    record, _ = stored(source)
    assert record["decoded_share"] < 0.5


def frame(pts: int | None, dts: int | None) -> Any:
    return SimpleNamespace(pts=pts, dts=dts)


def test_the_clock_takes_what_rises() -> None:
    stream: Any = SimpleNamespace(average_rate=Fraction(10), time_base=Fraction(1, 100))

    def read(*frames: tuple[int | None, int | None]) -> list[int | None]:
        clock = FrameClock(stream)
        return [clock.pts_of(frame(*each)) for each in frames]

    assert read((0, 0), (10, 10), (20, None)) == [0, 10, 20]
    assert read((2, 4), (8, 6), (6, 8), (4, 10), (16, 12)) == [2, 8, 8, 10, 12]  # H.264 in AVI
    assert read((None, 5), (None, 15), (None, None)) == [5, 15, 25]
    assert read((None, None), (None, None)) == [None, None]


@pytest.mark.parametrize(
    ("start", "first", "expected"),
    [(5_000_000, 5.0, 0.0), (0, 2.0, 2.0), (-20_000, 0.0, 0.0), (-80_000, -0.08, 0.0), (None, 3.0, 0.0)],
)
def test_seconds_before_the_first_frame(start: int | None, first: float, expected: float) -> None:
    container: Any = SimpleNamespace(start_time=start)
    assert seconds_before(container, first) == pytest.approx(expected)


# A file that is named like a part


def test_a_file_named_like_a_part_is_the_part_or_the_whole_video() -> None:
    part = Window(20, 30)
    for length in (1.0, 9.5, 10.0, 12.0, 16.5):
        assert part.within(length).is_whole_video
    for length in (28.5, 30.0, 60.0):
        assert part.within(length) == part
    assert part.within(None) == part and WHOLE.within(60.0) == WHOLE
    assert Window(0, 10).within(60.0) == Window(0, 10)
    with pytest.raises(VideoError, match=r"lasts 20.0 s, which is neither 10 s nor a video up to 30 s"):
        part.within(20.0)
