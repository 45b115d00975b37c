"""Members of archives and samples of shards, whole and broken."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from typing import Any

import pytest

from dataloaders.tar_shards import members as members_module
from dataloaders.tar_shards import raw_samples
from dataloaders.tar_shards.members import read_members
from dataloaders.tar_shards.raw_samples import BadSample, RawSample, key_and_suffix, read_samples
from dataloaders.tar_shards.stream import ShardError
from tests.dataloaders.tar_shards.shards import jpeg, sample_files, tar_bytes


class Bytes:
    """A stream over bytes in memory."""

    address = "toy.tar"

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    @property
    def position(self) -> int:
        return self._file.tell()

    def read(self, size: int) -> bytes:
        return self._file.read(size)

    def skip(self, size: int) -> None:
        self._file.read(size)


def names(data: bytes) -> list[str | None]:
    return [member and member.name for member in read_members(Bytes(data), lambda _: 1 << 20)]


def samples(files: Any, **options: Any) -> list[RawSample | BadSample | None]:
    data = files if isinstance(files, bytes) else tar_bytes(files)
    return list(read_samples(Bytes(data), **options))


def why(files: Any) -> str:
    (sample,) = samples(files)
    assert isinstance(sample, BadSample)
    return sample.why


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_every_format(form: int) -> None:
    long_name = "f" * 90 + "/" + "k" * 90 + ".0.jpg"
    names_in = ["a.jpg", long_name, "视频.jpg", "b.jpg"]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name in names_in:
            member = tarfile.TarInfo(name)
            member.size = 3
            archive.addfile(member, io.BytesIO(b"abc"))
    found = list(read_members(Bytes(buffer.getvalue()), lambda _: 1 << 20))
    assert [(member.name, member.data) for member in found if member] == [(n, b"abc") for n in names_in]


def test_links_folders_and_devices_are_passed_over() -> None:
    buffer = io.BytesIO()
    kinds = (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number, kind in enumerate(kinds):
            member = tarfile.TarInfo(f"x{number}.jpg")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        archive.addfile(tarfile.TarInfo("last.jpg"))
    assert names(buffer.getvalue()) == ["last.jpg"]


def test_what_nobody_wants_is_not_kept() -> None:
    data = tar_bytes({"a.pickle": b"x" * 5000, "b.jpg": b"y" * 5000})
    limits = {"a.pickle": 0, "b.jpg": 4999}
    found = list(read_members(Bytes(data), lambda name: limits[name]))
    assert [(member.name, member.size, member.data) for member in found if member] == [
        ("a.pickle", 5000, None),
        ("b.jpg", 5000, None),
    ]


@pytest.mark.parametrize("cut", [0, 100, 512 + 10, 1024 + 200, 2048])
def test_an_archive_that_is_cut_off_is_an_error(cut: int) -> None:
    with pytest.raises(ShardError, match="toy.tar: cut off after"):
        names(tar_bytes({"a.jpg": b"x" * 100, "b.jpg": b"x" * 100})[:cut])


def test_what_is_no_archive_is_an_error() -> None:
    with pytest.raises(ShardError, match="toy.tar: is not a tar archive"):
        names(b"<html>not found</html>".ljust(2048))


def test_a_broken_header_costs_its_sample_only(monkeypatch: pytest.MonkeyPatch) -> None:
    files = sample_files("a") | sample_files("b") | sample_files("c")
    data = bytearray(tar_bytes(files))
    place = data.index(b"b.1.jpg")
    data[place] ^= 1
    found = samples(bytes(data))
    assert [getattr(sample, "why", "") for sample in found] == ["", "a header of the archive is broken", ""]
    monkeypatch.setattr(members_module, "_MOST_BROKEN_BYTES", 1024)
    with pytest.raises(ShardError, match="broken near byte 2,048"):
        names(tar_bytes({"a.jpg": b"x"})[:1024] + b"y" * 4096)


def test_extended_headers_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members_module, "_MOST_NAME_BYTES", 100)
    assert names(tar_bytes({"k" * 300 + ".jpg": b"", "b.jpg": b""}))[1:] == ["b.jpg"]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("clip.mp4", ("clip", "mp4")),
        ("a.b/clip.000.JPG", ("a.b/clip", "000.jpg")),
        ("./clip.json", ("clip", "json")),
        ("clip", None),
        ("._clip.jpg", None),
        ("a/.DS_Store", None),
        ("__meta__.json", None),
        ("../../etc/x.json", ("../../etc/x", "json")),  # text, never a path
    ],
)
def test_keys(name: str, parts: tuple[str, str] | None) -> None:
    assert key_and_suffix(name) == parts


def test_a_sample_of_every_form() -> None:
    record = {"captions": {"english": ["a", "b"], "zh": "甲"}, "tags": ["x", "y"], "duration": 3}
    found = samples(
        [
            *sample_files("s.x".replace(".", "-"), frames=3, caption="one").items(),
            ("v.MP4", b"video"),
            ("v.json", json.dumps(record).encode()),
            ("v.npy", b"never read"),
            ("i.jpeg", jpeg(1)),
            ("i.txt", b"first line\n\nsecond line\n"),
            ("t.001.jpg", jpeg(1)),
            ("t.002.jpg", jpeg(2)),
            ("t.json", b'{"title": "of the video", "language": "en-US"}'),
        ]
    )
    frames, video, image, title = found
    assert isinstance(frames, RawSample) and len(frames.frames) == 3 and frames.video is None
    assert isinstance(video, RawSample) and video.video == b"video" and not video.frames
    assert video.texts.captions == {"english": ["a", "b"], "chinese": ["甲"]}
    assert video.texts.tags == {"": "x y"} and video.texts.duration == 3
    assert isinstance(image, RawSample) and image.texts.captions == {"": ["first line", "second line"]}
    assert isinstance(title, RawSample) and title.texts.captions == {"english": ["of the video"]}
    assert title.frames == [jpeg(1), jpeg(2)]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"a.0.jpg": jpeg(1)}, "has no caption"),
        ({"a.0.jpg": jpeg(1), "a.txt": b" \n"}, "has no caption"),
        ({"a.json": b'{"caption": "x"}'}, "has neither frames"),
        ({"a.0.jpg": b"", "a.2.jpg": b"", "a.txt": b"x"}, "lacks frames: 2 are there, the last has number 2"),
        ({"a.7.jpg": b"", "a.txt": b"x"}, "lacks frames"),
        ({"a.jpg": b"", "a.0.jpg": b"", "a.txt": b"x"}, "has two frames 0"),
        ({"a.jpg": b"", "a.json": b"{"}, ".json cannot be read"),
        ({"a.jpg": b"", "a.json": b"[" * 100_000}, ".json cannot be read"),
        ({"a.jpg": b"", "a.json": b"[1]"}, ".json is not an object"),
        ({"a.jpg": b"", "a.json": b'{"caption": 3}'}, "'caption' in .json must be a string"),
        ({"a.jpg": b"", "a.json": b'{"caption": "x", "language": "fr"}'}, "its language is 'fr'"),
        ({"a.jpg": b"", "a.txt": b"\xff"}, "its text is not UTF-8"),
        ([("a.jpg", b"1"), ("a.jpg", b"2"), ("a.txt", b"x")], "has two files .jpg"),
    ],
)
def test_what_cannot_be_used(files: Any, reason: str) -> None:
    assert reason in why(files)


def test_sizes_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(raw_samples.MOST_BYTES, "video", 100)
    assert why({"a.mp4": b"x" * 101, "a.txt": b"x"}) == ".mp4: 101 bytes, at most 100 are read"
    monkeypatch.setattr(raw_samples, "MOST_FRAMES", 2)
    assert "more than 2 frames" in why(sample_files("a", frames=3))


def test_skipped_samples_are_counted_and_not_read() -> None:
    data = tar_bytes(sample_files("a") | {"._a.jpg": b""} | sample_files("b") | sample_files("c"))
    found: Sequence[Any] = samples(data, skipped=2)
    assert found[:2] == [None, None] and found[2].key == "'c'"
