"""A table of captions, one a row, of anybody's videos -> Examples: `--dataset my_data.csv`.

Columns `video` and `caption`, and if wanted `split`, `language`, `start` and `end` (seconds of a part of the
video); their other names are in `video/clip_table.py` and `table_rows.py`. CSV with commas, tabs or
semicolons, JSON lines, or a JSON array. Without `split`, a share of the videos is the test. V videos, N
captions.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import inf, nan
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError, file_errors
from common.languages import BILINGUAL, LANGUAGES, language_of
from dataloaders.datasets.files import name_some
from dataloaders.datasets.spec import DatasetSpec, Remarks, SplitFiles, SplitSpec
from dataloaders.datasets.table_rows import NONE, SPLITS, SUFFIXES, Columns, Row, Rows
from dataloaders.examples import Examples, PackedStrings, StringPacker
from video.clip_ids import parse_clip_id

__all__ = ["SUFFIXES", "Table", "read_table", "table_spec"]
TEST_SHARE, MOST_TEST_VIDEOS = 0.1, 1_000  # without a column `split`
_INSPECTED = 1_000  # captions whose language is looked at


@dataclass(frozen=True)
class Table:
    """The rows of a table, without those that repeat another row and those with an empty caption.

    `split` [V] are positions in `SPLITS`, `language` [N] in `LANGUAGES`; -1 if the table has no such column.
    """

    path: Path
    columns: Columns
    unused: tuple[str, ...]
    video_ids: PackedStrings  # [V] ids of the frame store
    sources: PackedStrings  # [V] the videos that the clips are parts of
    durations: NDArray[np.float32]  # [V] seconds of parts, NaN of whole videos
    split: NDArray[np.int8]
    captions: PackedStrings  # [N]
    video_of_caption: NDArray[np.int64]  # [N]
    language: NDArray[np.int8]
    repeated: int
    empty: tuple[str, ...]  # places of the rows without a caption

    @property
    def has_splits(self) -> bool:
        return self.columns.split is not None

    def splits_named(self) -> tuple[str, ...]:
        """The splits that have rows; none without a column `split`."""
        return tuple(SPLITS[number] for number in np.unique(self.split) if number != NONE)

    def languages(self) -> tuple[str, ...]:
        """Those of the column `language`; without it the one that most captions seem to be in."""
        if self.columns.language is None:
            return (self._seen_languages().most_common(1)[0][0],)
        return tuple(LANGUAGES[number] for number in np.unique(self.language))

    def examples(self, split: str, language: str, *, whole: bool = False) -> Examples:
        """The captions of one split in one language, with their videos, in the order of the table.

        `whole`: without a column `split` all rows are this split. Raises `UserError` if there are none.
        """
        if not self.has_splits and whole:
            in_split = np.ones(len(self.video_ids), bool)
        else:
            in_split = self._split_or_draw == SPLITS.index(split)
        in_language = np.isin(self.language, (NONE, LANGUAGES.index(language)))
        kept = np.flatnonzero(in_split[self.video_of_caption] & in_language)
        if not len(kept):
            raise UserError(self._no_rows(split, language if in_split.any() else None))
        videos, positions = np.unique(self.video_of_caption[kept], return_inverse=True)
        durations = self.durations[videos]
        return Examples(
            video_ids=self.video_ids.take(videos),
            captions=self.captions.take(kept),
            video_of_caption=positions.astype(np.int64),
            durations=None if np.isnan(durations).all() else durations,
        )

    def remarks(self, language: str, *, whole: bool = False) -> Remarks:
        """How the table was read for a run in `language`.

        Raises `UserError` if it cannot tell two languages apart.
        """
        if language == BILINGUAL and self.columns.language is None:
            raise UserError(f"--language {language}: {self.path} needs a column language (english, chinese)")
        columns = ", ".join(self.columns.names)
        unused = f"; not used: {', '.join(self.unused)}" if self.unused else ""
        lines = [f"{self.path}: {len(self.captions):,} captions; columns {columns}{unused}"]
        if not self.has_splits and not whole:
            test = int((self._split_or_draw == SPLITS.index("test")).sum())
            lines.append(
                f"{self.path}: has no column split, so {test:,} of its {len(self.video_ids):,} videos are "
                "the test, always the same; --eval_annotations names a file of its own for the test"
            )
        warnings = []
        if self.repeated:
            warnings.append(f"{self.path}: {self.repeated:,} rows repeat another one and are left out")
        if self.empty:
            named = f"{len(self.empty):,} rows have no caption and are left out: {name_some(self.empty)}"
            warnings.append(f"{self.path}: {named}")
        shared = self._sources_in_two_splits() if self.has_splits else []
        if shared:
            warnings.append(
                f"{self.path}: {len(shared):,} videos have clips in more than one split "
                f"({name_some(shared)}); clips of one video look alike, so the test is easier than it seems"
            )
        return Remarks(tuple(lines), tuple(warnings + self._other_language(language)))

    @cached_property
    def _split_or_draw(self) -> NDArray[np.int8]:
        """[V] `split`, or without such a column what is drawn: by source video, so that no two splits share
        one. The draw depends on the names alone, not on their order or on --seed."""
        if self.has_splits:
            return self.split
        clips = defaultdict(list)
        for video, source in enumerate(self.sources):
            clips[source].append(video)
        if len(clips) < 2:
            raise UserError(
                f"{self.path}: has clips of one video only and no column split: nothing is left for the test"
            )
        wanted = min(max(round(TEST_SHARE * len(self.video_ids)), 1), MOST_TEST_VIDEOS)
        split = np.zeros(len(self.video_ids), np.int8)
        order = sorted(clips, key=lambda source: hashlib.sha256(source.encode("utf-8")).digest())
        taken = 0
        for source in order[:-1]:
            split[clips[source]] = SPLITS.index("test")
            taken += len(clips[source])
            if taken >= wanted:
                break
        return split

    def _sources_in_two_splits(self) -> list[str]:
        splits: dict[str, set[int]] = defaultdict(set)
        for source, split in zip(self.sources, self.split.tolist(), strict=True):
            splits[source].add(split)
        return [source for source, found in splits.items() if len(found) > 1]

    def _other_language(self, language: str) -> list[str]:
        """A warning if most texts of a table without a column `language` are in another one."""
        if self.columns.language is not None or language not in LANGUAGES:
            return []
        found = self._seen_languages()
        other, count = found.most_common(1)[0]
        if other == language:
            return []
        share = f"{count:,} of {found.total():,} inspected captions"
        return [f"--language {language}: {share} of {self.path} are in {other}; give --language {other}"]

    def _seen_languages(self) -> Counter[str]:
        step = max(1, len(self.captions) // _INSPECTED)
        return Counter(language_of(self.captions[n]) for n in range(0, len(self.captions), step))

    def _no_rows(self, split: str, language: str | None) -> str:
        if language is not None:
            rows = _counts(self.language, LANGUAGES)
            return f"{self.path}: no row of split {split} is in {language}; its rows: {rows}"
        rows = _counts(self._split_or_draw[self.video_of_caption], SPLITS)
        if split == "val":
            more = "--select_on held_out needs none"
        elif split == "test":
            more = "give some rows the split 'test', or a file of its own with --eval_annotations"
        else:
            more = "give some rows the split 'train'"
        return f"{self.path}: no row has the split {split!r}; its rows: {rows}; {more}"


def _counts(codes: NDArray[np.int8], names: tuple[str, ...]) -> str:
    found, counts = np.unique(codes, return_counts=True)
    return ", ".join(f"{names[code]} {count:,}" for code, count in zip(found, counts, strict=True))


def read_table(path: Path) -> Table:
    """The rows of a table; a file that did not change is read once.

    Raises `UserError`, with the line, for a file of another form or encoding, without the columns, or without
    rows; for a start or end that cannot be, a split or language that is not known, and a clip in two splits.
    """
    with file_errors(path):
        status = os.stat(path) if path.exists() else None
    return _read_table(path, (status.st_mtime_ns, status.st_size) if status else None)


@lru_cache(maxsize=2)
def _read_table(path: Path, version: tuple[int, int] | None) -> Table:
    rows = Rows(path)
    collected = _Collected(path)
    for row in rows:
        collected.add(row)
    if rows.columns is None:
        raise UserError(f"{path}: has no rows")
    return collected.table(rows.columns, rows.unused)


class _Collected:
    """Rows in packed arrays: a table may have millions."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._positions: dict[str, int] = {}  # of clips, by id
        self._parts: list[tuple[float, float]] = []  # [V] start and end
        self._sources, self._captions = StringPacker(), StringPacker()
        self._split, self._language = array("b"), array("b")
        self._video_of_caption = array("q")
        self._seen: set[bytes] = set()  # digests of rows
        self._repeated = 0
        self._empty: list[str] = []

    def add(self, row: Row) -> None:
        """Add a row. Raises `UserError` if it contradicts one before it."""
        for caption in row.captions:
            if not caption.strip():
                self._empty.append(row.place)
                continue
            video = self._video(row)
            key = f"{video} {row.language} {caption}".encode("utf-8", "surrogatepass")
            digest = hashlib.blake2b(key, digest_size=8).digest()
            if digest in self._seen:
                self._repeated += 1
                continue
            self._seen.add(digest)
            self._captions.append(caption)
            self._video_of_caption.append(video)
            self._language.append(row.language)

    def table(self, columns: Columns, unused: tuple[str, ...]) -> Table:
        """All rows. Raises `UserError` if none has a caption."""
        if not self._positions:
            raise UserError(f"{self._path}: every {columns.caption} is empty")
        seconds = [end - start if end < inf else nan for start, end in self._parts]
        return Table(
            path=self._path,
            columns=columns,
            unused=unused,
            video_ids=PackedStrings.from_iterable(self._positions),
            sources=self._sources.packed(),
            durations=np.array(seconds, np.float32),
            split=np.array(self._split, np.int8),
            captions=self._captions.packed(),
            video_of_caption=np.array(self._video_of_caption, np.int64),
            language=np.array(self._language, np.int8),
            repeated=self._repeated,
            empty=tuple(self._empty),
        )

    def _video(self, row: Row) -> int:
        """The position of a row's clip, which is new or has the split and the part of the rows before."""
        clip, where = row.clip, f"{self._path}, {row.place}"
        position = self._positions.setdefault(clip.video_id, len(self._parts))
        part = (clip.start, clip.end)
        if position == len(self._parts):
            self._parts.append(part)
            self._split.append(row.split)
            self._sources.append(clip.source)
        elif self._parts[position] != part:
            raise UserError(
                f"{where}: {clip.video_id!r} is repeated with another start or end (in a column 'video' "
                "instead of 'video_id', each part gets an id of its own)"
            )
        elif self._split[position] != row.split:
            before, now = SPLITS[self._split[position]], SPLITS[row.split]
            raise UserError(f"{where}: {clip.video_id!r} is in split {now}, and in {before} further above")
        return position


def table_spec(name: str) -> DatasetSpec:
    """The data set that is the table of this path. The frame store is beside it: my_data_lmdb."""
    path = Path(name).expanduser()
    train, val, test = (_split_spec(path, split) for split in SPLITS)
    return DatasetSpec(
        name=name,
        languages=LANGUAGES,
        splits={"pretrain": train.for_pretraining(), "train": train, "val": val, "test": test},
        validation=val,
        span_of_id=parse_clip_id,
        folder=path.parent,
        remarks=lambda files, language: read_table(files.annotations).remarks(language, whole=files.whole),
    )


def _split_spec(path: Path, split: str) -> SplitSpec:
    def read(files: SplitFiles, language: str) -> Examples:
        return read_table(files.annotations).examples(split, language, whole=files.whole)

    return SplitSpec(
        annotations=path.name,
        list=None,
        store=f"{path.stem}_lmdb",
        read=read,
        quick_to_read=True,
    )
