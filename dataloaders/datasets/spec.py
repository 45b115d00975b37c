"""What a data set is to the programs: `DatasetSpec`. The file of each data set ends with its own.

Importing this file is cheap (numpy at most), because flags are checked before torch is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from common.errors import UserError
from dataloaders.datasets.files import read_id_list
from dataloaders.examples import Examples
from video.clip_ids import Part

SPLITS = ("pretrain", "train", "val", "test")
VALIDATION = "validation"  # see DatasetSpec.validation
TRAINING, HELD_OUT = ("pretrain", "train"), ("val", "test")
DEFAULT_WORDS = 32


@dataclass(frozen=True)
class SplitFiles:
    """Paths of one split's files. `list` is None if the annotations alone define the videos of the split.

    `whole`: training and test are in different files, so a table without a column `split` is all this split.
    `videos`: the folder of video files that frames are decoded from, in place of the store.
    """

    annotations: Path
    list: Path | None
    store: Path
    whole: bool = False
    videos: Path | None = None

    def with_paths(self, annotations: str | None, list_path: str | None, store: str | None) -> SplitFiles:
        """These files, with those that a flag replaces."""
        return replace(
            self,
            annotations=Path(annotations).expanduser() if annotations else self.annotations,
            list=Path(list_path).expanduser() if list_path else self.list,
            store=Path(store).expanduser() if store else self.store,
        )

    def required_list(self) -> Path:
        """`list`. Raises `UserError` if there is none."""
        if self.list is None:
            raise UserError(f"{self.annotations}: a file that lists the videos of the split is needed too")
        return self.list


@dataclass(frozen=True)
class RepeatCheck:
    """How the data doctor finds ids that an annotation file repeats, and what a repeated one means."""

    find: Callable[[Path], list[str]]
    meaning: str


def _none(_: object) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class SplitSpec:
    """One split: file names in its data set's folder, its reader, and how its samples are made.

    `read` (files, language) -> examples. `words` and `tag_words` are the tokens of a caption and of its tag,
    None without tags; --max_words replaces both. `duration_factor` is in frames a second, for
    --frame_sample_len dynamic. `augments`: pre-training changes crops and colours of its frames.
    `quick_to_read`: the ids of a test are looked at before the training, by reading its annotations.
    `other_annotations` are read in place of `annotations` where only one of them is there. `faults` are the
    entries of the files that are wrong but do no harm: what is wrong -> which ones, for the data doctor.
    """

    annotations: str
    list: str | None
    store: str
    read: Callable[[SplitFiles, str], Examples]
    words: int = DEFAULT_WORDS
    tag_words: int | None = None
    duration_factor: float = 0.5
    augments: bool = False
    repeats: RepeatCheck | None = None
    quick_to_read: bool = False
    other_annotations: tuple[str, ...] = ()
    faults: Callable[[SplitFiles], Mapping[str, Sequence[str]]] = _none

    def for_pretraining(self) -> SplitSpec:
        """The split with the published clip lengths of pre-training."""
        return replace(self, duration_factor=0.3)


@dataclass(frozen=True)
class KnownList:
    """A list of videos that papers use. `remark` is what users of the list must know.

    `captions` are those in one language; None if papers do not agree on their number.
    """

    name: str
    videos: int
    sha256: str  # list_digest of its ids; "" if only the number of its videos is known
    serves: tuple[str, ...]  # the splits that it may be used for
    remark: str = ""
    pairs_sha256: str = ""  # pairs_digest, if the list is published with sentences
    captions: int | None = None


@dataclass(frozen=True)
class Remarks:
    """What a data set's file says of itself: lines for the log, and warnings."""

    lines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def _no_remarks(files: SplitFiles, language: str) -> Remarks:
    return Remarks()


def _ids_alone(path: Path) -> tuple[list[str], bool]:
    return read_id_list(path), False


@dataclass(frozen=True)
class DatasetSpec:
    """All that is particular to one data set; `name` is that of its folder under --data_dir too.

    - `validation`: the videos that --select_on val chooses a checkpoint with. They are never the test
      videos; None if the data set has no such list. `list_without_validation`: a training list without them.
    - `zero_shot_for`: values of --language for which pre-training is evaluated on this data set.
    - `read_list` (file) -> (video ids of a list, whether it holds their captions too).
    - `known_lists`, and `sizes_by_name`: (pattern of a list file's name, videos that such a name implies).
    - `list_choices`: values of --split -> list file of each split that then has another list than by default.
      The first value is the default.
    - `captions_per_video`: of the published lists, in one language; None if it varies.
    - `protocol`: what a query is in papers (docs/EVALUATION.md), and so a text to train on. `frames`: of a
      clip in papers, if not --max_frames' default. `first_seconds`: frames after them are not used.
    - `store_prefix`: frame stores may name a video with or without it.
    - `span_of_id`: the part of a source video that an id names. `read_spans` reads the parts from an
      annotation file instead.
    - `folder`: of its files, if it is not the one under --data_dir: the data set is a table of anybody's.
    - `remarks` (files, language) -> what to say about its file; raises `UserError` if it lacks a language.
    """

    name: str
    languages: tuple[str, ...]
    splits: Mapping[str, SplitSpec]
    validation: SplitSpec | None = None
    aliases: tuple[str, ...] = ()
    zero_shot_for: tuple[str, ...] = ()
    list_without_validation: str = ""
    read_list: Callable[[Path], tuple[list[str], bool]] = _ids_alone
    known_lists: tuple[KnownList, ...] = ()
    sizes_by_name: tuple[tuple[str, int], ...] = ()
    captions_per_video: int | None = None
    store_prefix: str = ""
    span_of_id: Callable[[str], Part | None] | None = None
    read_spans: Callable[[Path], Mapping[str, Part]] = _none
    list_choices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    protocol: str = "auto"
    frames: int | None = None
    first_seconds: float | None = None
    folder: Path | None = None
    remarks: Callable[[SplitFiles, str], Remarks] = _no_remarks

    def split(self, name: str) -> SplitSpec:
        """A split of `SPLITS`, or `VALIDATION`. Raises `UserError` if there is no validation list."""
        if name == VALIDATION:
            if self.validation is None:
                raise UserError(
                    f"--select_on val: {self.name} has no validation list; --select_on held_out needs none"
                )
            return self.validation
        assert name in SPLITS, name
        return self.splits[name]

    @property
    def is_table(self) -> bool:
        """Whether it is a table of anybody's, which `name` is the path of, and not a published data set."""
        return self.folder is not None

    @property
    def has_tags(self) -> bool:
        return any(split.tag_words is not None for split in self.splits.values())
