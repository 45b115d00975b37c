"""Samples of a shard: the files of one key, with their texts checked and their pictures or video as bytes.

webdataset's rule: a name splits at the first dot of its last part into key and suffix, and a sample is the
files with one key that stand together. Suffixes that are read:

    0.jpg 1.jpg ... 000.jpg 001.jpg ...  (or .jpeg)     frames, in order, all there
    jpg jpeg                                            one frame
    mp4 webm mkv mov avi m4v                            a video
    json                                                texts, language, duration
    txt                                                 a caption on each line

Nothing else is read: no pickles, no arrays.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from common.languages import LANGUAGES
from dataloaders.tar_shards.members import Member, Stream, read_members

VIDEO_SUFFIXES = ("mp4", "webm", "mkv", "mov", "avi", "m4v")
_TEXT_SUFFIXES = ("json", "txt")
_FRAME = re.compile(r"(?:(\d{1,6})\.)?jpe?g")
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)
MOST_BYTES = {"video": 512 << 20, "frame": 64 << 20, "text": 16 << 20}
MOST_FRAMES = 10_000
_CODES = {"en": "english", "zh": "chinese"}
_SHOWN = 80  # characters of a key in a message


class BadSampleError(Exception):
    """A sample cannot be used. The message says why, without its name."""


@dataclass(frozen=True)
class Texts:
    """The texts of a sample by language; "" stands for texts whose language is not said. Seconds or None."""

    captions: Mapping[str, list[str]]
    tags: Mapping[str, str] = field(default_factory=dict)
    duration: float | None = None


@dataclass(frozen=True)
class RawSample:
    """A sample whose texts were read; `frames` are JPEGs, or there is a `video`."""

    key: str
    texts: Texts
    frames: list[bytes]
    video: bytes | None = None


@dataclass(frozen=True)
class BadSample:
    """In the place of a sample that cannot be used."""

    key: str
    why: str


def key_and_suffix(name: str) -> tuple[str, str] | None:
    """("a/clip7", "0.jpg") of "a/clip7.0.jpg"; None for names of no sample: `._x.jpg`, `__x__.json`."""
    match = _NAME.fullmatch(name.removeprefix("./"))
    if match is None or match[1].rpartition("/")[2].startswith("__"):
        return None
    return match[1], match[2].lower()


def read_samples(stream: Stream, *, skipped: int = 0) -> Iterator[RawSample | BadSample | None]:
    """The samples of a shard in order; None for each of the first `skipped`, whose data is not read.

    Raises `ShardError` where the shard cannot be read further.
    """
    key: str | None = None
    files: dict[str, Member] = {}
    damage = ""
    number = -1

    def limit_of(name: str) -> int:
        parts = key_and_suffix(name)
        if parts is None:
            return 0
        starts_new = parts[0] != key
        return _limit(parts[1]) if number + starts_new >= skipped else 0

    def finished() -> RawSample | BadSample | None:
        assert key is not None
        return None if number < skipped else _sample(key, files, damage)

    for member in read_members(stream, limit_of):
        if member is None:
            damage = "a header of the archive is broken"
            continue
        parts = key_and_suffix(member.name)
        if parts is None:
            continue
        if parts[0] != key:
            if key is not None:
                yield finished()
            key, files, damage = parts[0], {}, ""
            number += 1
        if parts[1] in files:
            damage = f"has two files .{parts[1]}"
        if len(files) < MOST_FRAMES + 10:
            files[parts[1]] = member
    if key is not None:
        yield finished()


def _limit(suffix: str) -> int:
    if suffix in _TEXT_SUFFIXES:
        return MOST_BYTES["text"]
    if suffix in VIDEO_SUFFIXES:
        return MOST_BYTES["video"]
    return MOST_BYTES["frame"] if _FRAME.fullmatch(suffix) else 0


def _sample(key: str, files: Mapping[str, Member], damage: str) -> RawSample | BadSample:
    shown = repr(key if len(key) <= _SHOWN else key[:_SHOWN] + "...")
    try:
        if damage:
            raise BadSampleError(damage)
        for suffix, member in files.items():
            if member.data is None and _limit(suffix):
                raise BadSampleError(f".{suffix}: {member.size:,} bytes, at most {_limit(suffix):,} are read")
        frames = _frames(files)
        videos = [files[suffix].data for suffix in VIDEO_SUFFIXES if suffix in files]
        if not frames and not videos:
            raise BadSampleError("has neither frames (.jpg, .0.jpg, ...) nor a video")
        return RawSample(shown, _texts(files), frames, None if frames else videos[0])
    except BadSampleError as error:
        return BadSample(shown, str(error))


def _frames(files: Mapping[str, Member]) -> list[bytes]:
    """The JPEGs in the order of their numbers, which must start at 0 or 1 and lack none."""
    numbered: dict[int, bytes] = {}
    for suffix, member in files.items():
        match = _FRAME.fullmatch(suffix)
        if match is None:
            continue
        number = int(match[1] or 0)
        if number in numbered:
            raise BadSampleError(f"has two frames {number}")
        assert member.data is not None
        numbered[number] = member.data
    order = sorted(numbered)
    if order and (order[0] > 1 or order[-1] - order[0] != len(order) - 1):
        raise BadSampleError(f"lacks frames: {len(order)} are there, the last has number {order[-1]}")
    if len(order) > MOST_FRAMES:
        raise BadSampleError(f"has more than {MOST_FRAMES:,} frames")
    return [numbered[number] for number in order]


def _texts(files: Mapping[str, Member]) -> Texts:
    record = _record(files["json"]) if "json" in files else {}
    language = _language(record.get("language"))
    captions = _by_language(record, "captions", language) or _by_language(record, "caption", language)
    if not any(captions.values()) and "txt" in files:
        lines = _decoded(files["txt"]).splitlines()
        captions = {language: [line.strip() for line in lines if line.strip()]}
    if not any(captions.values()):
        captions = _by_language(record, "title", language)
    tags = _by_language(record, "tags", language) or _by_language(record, "tag", language)
    if not any(captions.values()):
        raise BadSampleError("has no caption (.json with 'captions', 'caption' or 'title', or .txt)")
    return Texts(
        {name: texts for name, texts in captions.items() if texts},
        {name: " ".join(texts) for name, texts in tags.items()},
        _duration(record.get("duration")),
    )


def _decoded(member: Member) -> str:
    assert member.data is not None
    try:
        return member.data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadSampleError("its text is not UTF-8") from None


def _record(member: Member) -> dict[str, Any]:
    try:
        record = json.loads(_decoded(member))
    except (ValueError, RecursionError) as error:
        raise BadSampleError(f".json cannot be read ({error})") from None
    if not isinstance(record, dict):
        raise BadSampleError(".json is not an object")
    return record


def _by_language(record: Mapping[str, Any], name: str, language: str) -> dict[str, list[str]]:
    """Texts of a field: a string, a list of strings, or an object {language: one of these}."""
    value = record.get(name)
    if isinstance(value, dict):
        return {_language(key): _strings(name, texts) for key, texts in value.items()}
    return {} if value is None else {language: _strings(name, value)}


def _strings(name: str, value: Any) -> list[str]:
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise BadSampleError(f"'{name}' in .json must be a string, a list of strings, or these by language")
    return [text for text in texts if text.strip()]


def _language(value: Any) -> str:
    """ "" if nothing is said; `en`, `en-US` and `zh_CN` are codes of languages that are read."""
    if value in (None, ""):
        return ""
    code = re.split("[-_]", value.lower())[0] if isinstance(value, str) else ""
    name = _CODES.get(code, code)
    if name not in LANGUAGES:
        raise BadSampleError(f"its language is {value!r}, not {' or '.join(LANGUAGES)}")
    return name


def _duration(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value < math.inf else None
