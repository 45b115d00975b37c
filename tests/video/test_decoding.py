"""The stored frames are exactly the planned ones, for every container and every kind of damage."""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from dataloaders.frame_store.reader import decode_jpeg
from tests.video import fixtures as make
from tests.video.fixtures import X264, read_number, write_video
from video.decoding import sample_with_pyav
from video.opencv_decoder import sample_with_opencv
from video.pictures import PictureEncoder
from video.sample import Job, Settings, probe, run_job
from video.sampling import Sample, VideoError, Window, spread_positions

WHOLE = Window()
LONG = {**X264, "g": "60"}
HEVC = "open-gop=1:keyint=24:min-keyint=24:bframes=4:scenecut=0:log-level=none:pools=1:frame-threads=1"
VP9 = {"deadline": "realtime", "cpu-used": "8"}


@pytest.fixture(autouse=True)
def _quiet() -> None:
    av.logging.set_level(av.logging.PANIC)
    os.environ["SVT_LOG"] = "-2"


def sample(path: Path, *, wanted: int = 30, window: Window = WHOLE, slack: float = 0.0) -> Sample:
    encode = PictureEncoder(short_side=256, quality=95)
    return sample_with_pyav(path, wanted=wanted, encode=encode, window=window, slack=slack)


def numbers(found: Sample) -> list[int]:
    return [read_number(decode_jpeg(picture.jpeg)) for picture in found.pictures]


def all_numbers(path: Path) -> list[int]:
    """The numbers of all frames that plain decoding from start to end gives."""
    found = []
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            try:
                found += [read_number(frame.to_ndarray(format="rgb24")) for frame in packet.decode()]
            except av.FFmpegError:
                continue
    return found


MAKERS: dict[str, Callable[[Path], Path]] = {
    "base.mp4": lambda p: write_video(p, frames=200),
    "long_gops.mp4": lambda p: write_video(p, frames=900, options=LONG),
    "short_gops.mkv": lambda p: write_video(p, frames=900, options={**X264, "g": "12"}),
    "all_intra.mp4": lambda p: write_video(p, frames=200, options={"preset": "ultrafast", "g": "1"}),
    "tiny_gops.mp4": lambda p: write_video(p, frames=400, options={**X264, "g": "3"}),
    "open_gops.mp4": lambda p: write_video(
        p, frames=600, options={**X264, "g": "20", "x264-params": "open-gop=1"}
    ),
    "program_stream.mpg": lambda p: write_video(
        p, frames=200, codec="mpeg2video", options={"bf": "2", "g": "250"}
    ),
    "transport_stream.ts": lambda p: write_video(p, frames=200),
    "bframes.avi": lambda p: write_video(p, frames=120, codec="mpeg4", options={"bf": "2", "g": "60"}),
    "five.mp4": lambda p: write_video(p, frames=5, rate=10),
    "half_fps.mp4": lambda p: write_video(p, frames=30, rate=Fraction(1, 2)),
    "vfr.mp4": lambda p: write_video(
        p, frames=36, rate=30, times=[t for t in range(120) if t < 30 or t % 15 == 0]
    ),
    "nolen.webm": lambda p: make.write_unseekable(
        p, frames=40, codec="libvpx-vp9", format="webm", options=VP9
    ),
    "hidden_frames_vp8.webm": lambda p: write_video(
        p,
        frames=100,
        codec="libvpx",
        options={"deadline": "good", "cpu-used": "5", "auto-alt-ref": "1", "lag-in-frames": "16"},
    ),
    "hidden_frames_vp9.webm": lambda p: write_video(
        p,
        frames=600,
        codec="libvpx-vp9",
        options={"deadline": "good", "cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "16", "g": "15"},
    ),
    "av1.mp4": lambda p: write_video(
        p, frames=40, codec="libsvtav1", options={"preset": "10", "crf": "15"}, size=(80, 64)
    ),
    "open_gops_hevc.mp4": lambda p: write_video(
        p, frames=1000, codec="libx265", options={"preset": "ultrafast", "x265-params": HEVC}
    ),
    "pixchange.avi": make.write_mjpeg_that_changes,
    "trunc.mp4": lambda p: cut(p, faststart=True, share=0.6),
    "trimcopy.mp4": lambda p: make.remux(p, base(p), shift=-55),
    "hurt.mp4": lambda p: make.flip_bytes(p, base(p), packet=100),
}
BY_INDEX = {
    "base.mp4",
    "long_gops.mp4",
    "short_gops.mkv",
    "all_intra.mp4",
    "tiny_gops.mp4",
    "five.mp4",
    "half_fps.mp4",
    "vfr.mp4",
    "hidden_frames_vp9.webm",
    "open_gops_hevc.mp4",
}


def base(beside: Path) -> Path:
    return write_video(beside.with_name("source.mp4"), frames=200)


def cut(path: Path, *, faststart: bool, share: float) -> Path:
    options = {"movflags": "+faststart"} if faststart else {}
    data = write_video(path, frames=200, container_options=options).read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


@pytest.mark.parametrize("name", MAKERS)
def test_stored_pictures_are_those_at_the_planned_positions(name: str, tmp_path: Path) -> None:
    try:
        path = MAKERS[name](tmp_path / name)
    except av.codec.codec.UnknownCodecError as error:
        pytest.skip(f"this PyAV cannot encode: {error}")
    true = all_numbers(path)
    found = sample(path)
    assert found.frames == len(true)
    assert found.indices == spread_positions(len(true), 30)
    assert numbers(found) == [true[index] for index in found.indices]
    if name in BY_INDEX:
        assert found.by_index


@pytest.mark.parametrize("frames", [1, 2, 9, 10, 11, 29, 30, 31])
def test_short_clips_repeat_frames_in_order(frames: int, tmp_path: Path) -> None:
    found = sample(write_video(tmp_path / "clip.mp4", frames=frames))
    assert numbers(found) == found.indices == sorted(found.indices)
    assert found.indices[0] == 0 and found.indices[-1] == frames - 1
    assert len(found.indices) == 30


def test_one_wanted_frame_is_the_middle_one() -> None:
    assert spread_positions(9, 1) == [4]


def test_decoding_by_index_gives_the_same_bytes_as_decoding_everything(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", frames=300, options={**X264, "g": "40"})
    other = make.remux(tmp_path / "clip.ts", path)  # a transport stream's packets are not trusted
    indexed, ordered = sample(path), sample(other)
    assert indexed.by_index and not ordered.by_index
    assert [p.jpeg for p in indexed.pictures] == [p.jpeg for p in ordered.pictures]


def test_opencv_gives_the_same_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", frames=90)
    encode = PictureEncoder(short_side=256, quality=95)
    found = sample_with_opencv(path, wanted=30, encode=encode, window=WHOLE)
    assert numbers(found) == found.indices == spread_positions(90, 30)
    assert found.decoder.startswith("OpenCV") and found.fps == 25


def test_a_part_of_a_video_is_cut_out_by_its_times(tmp_path: Path) -> None:
    window = Window(2.0, 4.0)  # 25 frames a second: frames 50 to 99
    for name in ("clip.mp4", "clip.ts"):
        found = sample(write_video(tmp_path / name, frames=300), wanted=10, window=window)
        assert numbers(found) == found.indices == [50 + index for index in spread_positions(50, 10)]
        assert found.frames == 50
    with pytest.raises(VideoError, match="no frame between 50 s and 60 s"):
        sample(tmp_path / "clip.ts", window=Window(50, 60))


def test_slack_moves_frames_of_long_videos_only_and_within_reach(tmp_path: Path) -> None:
    long = write_video(tmp_path / "long.mp4", frames=3000, options={**X264, "g": "90"}, picture=modest)
    exact, moved = sample(long, wanted=10), sample(long, wanted=10, slack=0.25)
    distance = 2999 / 9
    assert [number % 1000 for number in moved.indices] == numbers(moved)
    assert moved.indices == sorted(moved.indices) and exact.indices == spread_positions(3000, 10)
    farthest = max(abs(a - b) for a, b in zip(exact.indices, moved.indices, strict=True))
    assert 0 < farthest <= 0.25 * distance
    assert (exact.moved, moved.moved) == (0, farthest)
    assert sum(index % 90 == 0 for index in moved.indices) > sum(index % 90 == 0 for index in exact.indices)
    assert (moved.indices[0], moved.indices[-1]) == (0, 2999)
    short = write_video(tmp_path / "short.mp4", frames=900, options={**X264, "g": "30"})
    assert sample(short, wanted=10, slack=0.25).indices == spread_positions(900, 10)


def modest(number: int) -> np.ndarray:
    return make.numbered(number % 1000)


# Pictures: size, direction, colour


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [
        ((1, 0, 0, 1), (0, 0)),
        ((0, 1, -1, 0), (0, 1)),  # a quarter turn clockwise: top left goes to top right
        ((-1, 0, 0, -1), (1, 1)),
        ((0, -1, 1, 0), (1, 0)),
        ((-1, 0, 0, 1), (0, 1)),  # mirrored left to right
    ],
)
def test_pictures_are_stored_upright(
    matrix: tuple[int, int, int, int], corner: tuple[int, int], tmp_path: Path
) -> None:
    def red_corner(_: int) -> np.ndarray:
        picture = np.zeros((48, 64, 3), np.uint8)
        picture[:16, :16, 0] = 220
        return picture

    plain = write_video(tmp_path / "plain.mp4", frames=5, size=(64, 48), picture=red_corner)
    found = sample(make.rotate_tag(tmp_path / "turned.mp4", plain, matrix), wanted=2)
    picture = decode_jpeg(found.pictures[0].jpeg)
    assert picture.shape[:2] == ((64, 48) if matrix[0] == 0 else (48, 64))
    red = picture[-4 if corner[0] else 4, -4 if corner[1] else 4]
    assert red[0] > 150 and red[1] < 60
    assert (picture[:, :, 0] > 128).sum() == pytest.approx(256, abs=40)


def test_rotation_is_the_same_with_opencv(tmp_path: Path) -> None:
    turned = make.rotate_tag(
        tmp_path / "turned.mp4", write_video(tmp_path / "plain.mp4", frames=5), (0, 1, -1, 0)
    )
    encode = PictureEncoder(short_side=0, quality=95)
    ours = decode_jpeg(sample(turned, wanted=1).pictures[0].jpeg)
    theirs = sample_with_opencv(turned, wanted=1, encode=encode, window=WHOLE)
    other = decode_jpeg(theirs.pictures[0].jpeg)
    assert ours.shape == other.shape
    assert np.abs(ours.astype(int) - other).mean() < 4


@pytest.mark.parametrize(
    ("tags", "size"),
    [
        ({"colorspace": 1, "color_range": 1}, (96, 64)),
        ({"colorspace": 5, "color_range": 1}, (96, 64)),
        ({"colorspace": 1, "color_range": 2}, (96, 64)),
        ({"colorspace": 6, "color_range": 2}, (1280, 720)),
        ({}, (96, 64)),
        ({}, (1280, 720)),
    ],
)
def test_colours_are_right_for_every_matrix_and_range(
    tags: dict[str, int], size: tuple[int, int], tmp_path: Path
) -> None:
    """Pure colours, converted to YUV by hand, are restored; untagged video is BT.709 from 720 lines on."""
    matrix = tags.get("colorspace", 1 if size[1] >= 720 else 6)
    for colour in ([200, 30, 30], [30, 200, 30], [30, 30, 200], [128, 128, 128], [235, 235, 235]):
        path = write_flat_yuv(tmp_path / "flat.mp4", colour, tags=tags, matrix=matrix, size=size)
        picture = decode_jpeg(sample(path, wanted=1).pictures[0].jpeg)
        assert picture[8, 8].astype(int) == pytest.approx(colour, abs=4)


def write_flat_yuv(
    path: Path, colour: list[int], *, tags: dict[str, int], matrix: int, size: tuple[int, int]
) -> Path:
    # As x264's own flags, since older PyAV cannot set the tags.
    names = {1: "bt709", 5: "bt470bg", 6: "smpte170m"}
    full = tags.get("color_range") == 2
    pix_fmt = "yuvj420p" if full else "yuv420p"
    flags = {"x264-params": f"colormatrix={names[matrix]}"} if tags else {}
    red, blue = (0.2126, 0.0722) if matrix == 1 else (0.299, 0.114)
    r, g, b = (value / 255 for value in colour)
    luma = red * r + (1 - red - blue) * g + blue * b
    u, v = (b - luma) / (2 - 2 * blue), (r - luma) / (2 - 2 * red)
    values = (
        (255 * luma, 128 + 255 * u, 128 + 255 * v)
        if full
        else (16 + 219 * luma, 128 + 224 * u, 128 + 224 * v)
    )
    width, height = size
    planes = [
        np.full(n, round(x))
        for n, x in zip((width * height, *[width * height // 4] * 2), values, strict=True)
    ]
    yuv = np.concatenate(planes).astype(np.uint8).reshape(height * 3 // 2, width)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "qp": "0"})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.options = {**stream.codec_context.options, **flags}
        frame = av.VideoFrame.from_ndarray(yuv, format=pix_fmt)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_shrinking_is_area_averaging_and_never_enlarges(tmp_path: Path) -> None:
    def stripes(_: int) -> np.ndarray:
        return np.repeat(np.tile(np.array([0, 240], np.uint8), (320, 160))[:, :, None], 3, axis=2)

    path = write_video(tmp_path / "stripes.mp4", frames=2, size=(320, 320), picture=stripes)
    for short_side, expected in ((40, 40), (0, 320), (1000, 320)):
        encode = PictureEncoder(short_side=short_side, quality=95)
        found = sample_with_pyav(path, wanted=1, encode=encode, window=WHOLE)
        picture = decode_jpeg(found.pictures[0].jpeg)
        assert picture.shape == (expected, expected, 3)
        if short_side == 40:  # stripes finer than a pixel become their mean, without moiré
            assert picture.std() < 4 and picture.mean() == pytest.approx(120, abs=5)


def test_size_follows_the_shorter_side(tmp_path: Path) -> None:
    tall = write_video(tmp_path / "tall.mp4", frames=2, size=(200, 420))
    encode = PictureEncoder(short_side=100, quality=95)
    first = sample_with_pyav(tall, wanted=1, encode=encode, window=WHOLE).pictures[0]
    assert (first.width, first.height) == (100, 210)


# Faults, each with its reason


def job(path: Path | None, **settings: int) -> Job:
    return Job("clip", path, WHOLE, Settings(**{"num_frames": 30, **settings}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty.mp4", "unopenable"),
        ("text.mp4", "unopenable"),
        ("nomoov.mp4", "unopenable"),
        ("audio.mp4", "no video stream"),
        ("strange.mp4", "codec not decodable"),
        ("headless.mp4", "no frames"),
        ("absent.mp4", "missing"),
    ],
)
def test_files_without_frames_are_named_with_their_reason(name: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "empty.mp4":
        path.write_bytes(b"")
    elif name == "text.mp4":
        path.write_text("This is no video.\n" * 50, encoding="utf-8")
    elif name == "nomoov.mp4":
        cut(path, faststart=False, share=0.6)
    elif name == "audio.mp4":
        make.write_audio(path)
    elif name == "strange.mp4":
        make.write_unknown_codec(path)
    elif name == "headless.mp4":
        cut(path, faststart=True, share=0.0)
        data = write_video(path, frames=20, container_options={"movflags": "+faststart"}).read_bytes()
        path.write_bytes(data[: data.index(b"mdat") + 4])
    answer, jpegs = run_job(job(path))
    assert isinstance(answer, VideoError) and answer.reason == reason and not jpegs


def test_what_pyav_cannot_take_is_given_to_opencv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in refuses: no real file can be made, for the FFmpeg in PyAV's wheels has every reader and
    video decoder of the one in OpenCV's. Only builds of other origin differ.
    """

    def refuse(*_: object, **__: object) -> Sample:
        raise VideoError("codec not decodable", "not here")

    monkeypatch.setattr("video.sample.sample_with_pyav", refuse)
    record, jpegs = run_job(job(write_video(tmp_path / "clip.mp4", frames=40)))
    assert record["decoder"].startswith("OpenCV") and len(jpegs) == 30


def test_the_probe_names_codecs_before_the_work(tmp_path: Path) -> None:
    assert probe(write_video(tmp_path / "clip.mp4", frames=5)) == ("h264", [])
    answer, _ = probe(make.write_audio(tmp_path / "audio.mp4"))
    assert isinstance(answer, VideoError) and answer.reason == "no video stream"


def test_the_record_says_what_was_stored(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", frames=5, rate=10)
    record, jpegs = run_job(job(path))
    assert record["repeated"] is True
    assert record["source_frames"] == 5 and record["fps"] == 10 and record["duration"] == 0.5
    assert record["codec"] == "h264" and record["file"] == "clip.mp4"
    assert record["file_bytes"] == path.stat().st_size
    assert record["bytes"] == sum(map(len, jpegs)) and record["rotation"] == 0
    assert "libavcodec" in record["decoder"]
    assert "repeated" not in run_job(job(path, num_frames=5))[0]


def test_the_file_name_is_never_taken_for_a_protocol_or_a_flag(tmp_path: Path) -> None:
    for name in ("-dash.mp4", "http:x.mp4", "50%d.mp4", "中文 视频.mp4", "a.b_c.mp4"):
        source = write_video(tmp_path / "plain.mp4", frames=3)
        path = tmp_path / name
        path.write_bytes(source.read_bytes())
        record, jpegs = run_job(job(path))
        assert len(jpegs) == 30 and record["source_frames"] == 3
