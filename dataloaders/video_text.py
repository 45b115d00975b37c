"""The Dataset: clips and texts of one split, in three views.

V videos, N captions, F frames, S side, W words (W' of the tag). Keys and types: docs/ARCHITECTURE.md.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from common.errors import UserError
from dataloaders.examples import Examples
from dataloaders.frame_sampling import FRAME_SAMPLES, TooFewFramesError, frames_within, sample_frame_indices
from dataloaders.frame_source import FrameReader, FramesError
from dataloaders.frame_store.jpeg import Excess
from dataloaders.samples import Sample, SampleMaker, sample_rng
from dataloaders.tokenization import Tokenizer, TokenizerPair, tokenizer_of
from dataloaders.transforms import FrameSize

logger = logging.getLogger(__name__)

VIEWS = ("pairs", "videos", "captions")
FRAME_SAMPLE_LENS = ("fix", "dynamic")
# Training gives up after this many unreadable videos in a row: then the store is broken, not a video.
MAX_UNREADABLE = 10
_PROBES = 64

# (epoch, index), or the index alone for epoch 0.
SampleKey = int | tuple[int, int]


@dataclass(frozen=True)
class CaptionSample:
    """Counts of some captions: how many, how many are truncated, their tokens, and the unknown tokens."""

    captions: int
    truncated: int
    tokens: int
    unknown: int

    @property
    def unknown_share(self) -> float:
        return self.unknown / max(1, self.tokens)


class _StoredVideo:
    """One video of a frame store or of another source; with `first_seconds` only its frames up to there."""

    def __init__(self, store: FrameReader, video_id: str, first_seconds: float | None) -> None:
        self._store = store
        self._first_seconds = first_seconds
        self.name = video_id

    def num_frames(self) -> int:
        stored = self._store.num_frames(self.name)
        if stored == 0:
            kind = getattr(self._store, "kind", "frame store")
            raise FramesError(f"video {self.name} is not in the {kind} {getattr(self._store, 'path', '')}")
        if self._first_seconds is None:
            return stored
        return frames_within(self._store.manifest(self.name), stored, self._first_seconds)

    def iter_frames(
        self, indices: Sequence[int], excess: Sequence[Excess] | None = None
    ) -> Iterable[NDArray[np.uint8]]:
        return self._store.iter_frames(self.name, indices, excess)

    def read_jpegs(self, indices: Sequence[int]) -> list[bytes]:
        return self._store.read_jpegs(self.name, indices)


class VideoTextDataset(Dataset[Sample]):
    """Samples of `examples` with frames from `store`: a frame store or another source (frame_source.py).

    - `pairs`, for training: each caption with a clip of its video. An unreadable video is replaced by the
      next example of another video; the sample's `replaced` is 1 then.
    - `videos` and `captions`, for evaluation: each once. Frames are sampled uniformly, nothing is augmented
      or masked, and an unreadable video raises `FramesError`.

    Read as `ds[i]` or `ds[(epoch, i)]`; all randomness depends on (seed, epoch, i) only. `frame_sample_len`
    "dynamic": in evaluation, a data set without durations has clips of F frames. Frames after the
    `first_seconds` of a video are not used. The settings of clips and
    texts are those of `SampleMaker`; augmentation, `scaled_decoding`, `encoded` and `mlm` are for training
    only. Samples of examples with `languages` have the number of theirs as `language`.

    The constructor raises `UserError` for `random` sampling of more frames than are stored, and for dynamic
    lengths without durations.
    """

    def __init__(
        self,
        examples: Examples,
        store: FrameReader,
        tokenizer: Tokenizer | TokenizerPair,
        *,
        view: str,
        max_words: int,
        max_frames: int,
        image_size: FrameSize,
        max_tag_words: int | None = None,
        frame_sample: str = "uniform",
        frame_sample_len: str = "fix",
        duration_factor: float = 0.5,
        first_seconds: float | None = None,
        augment: str | None = None,
        colours_here: bool = False,
        scaled_decoding: bool = False,
        encoded: bool = False,
        mlm: bool = False,
        seed: int = 0,
    ) -> None:
        assert view in VIEWS and seed >= 0
        self.examples = examples
        self.view = view
        self._store = store
        self._first_seconds = first_seconds
        trains = view == "pairs"
        self._check_choices(frame_sample, frame_sample_len)
        self._samples = SampleMaker(
            tokenizer,
            max_words=max_words,
            max_tag_words=max_tag_words if examples.tags is not None else None,
            max_frames=max_frames,
            image_size=image_size,
            frame_sample=frame_sample if trains else "uniform",
            dynamic=frame_sample_len == "dynamic" and (trains or examples.durations is not None),
            duration_factor=duration_factor,
            augment=augment if trains else None,
            colours_here=colours_here,
            scaled_decoding=scaled_decoding and trains,
            encoded=encoded and trains,
            mlm=mlm and trains,
        )
        self._seed = seed
        self._reported: set[str] = set()
        self._check_videos()

    def __len__(self) -> int:
        return self.examples.num_videos if self.view == "videos" else self.examples.num_captions

    def __getitem__(self, key: SampleKey) -> Sample:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        if self.view == "videos":
            return self._clip(index, sample_rng(self._seed, epoch, index)) | _number(index)
        if self.view == "captions":
            caption, language = self.examples.captions[index], self._language(index)
            return self._samples.text(caption, language=language) | _number(index)
        return self._readable_pair(epoch, index)

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample's frames; the texts are small in comparison."""
        return 0 if self.view == "captions" else self._samples.clip_bytes

    @property
    def language(self) -> int | None:
        """The language of the first caption; None where all captions are of one language."""
        return self._language(0)

    def tokenizer_source(self, language: int | None = None) -> str:
        """The flag that the tokenizer of a language comes from, for messages."""
        return tokenizer_of(self._samples.tokenizer, language).source

    def inspect_captions(self, limit: int = 10_000, *, language: int | None = None) -> CaptionSample:
        """Tokenize all captions, or `limit` spread evenly, and count what the model will not see.

        With `language`, only the captions of this language.
        """
        candidates = np.arange(self.examples.num_captions)
        if language is not None:
            assert self.examples.languages is not None
            candidates = np.flatnonzero(self.examples.languages == language)
        total = len(candidates)
        chosen = np.unique(np.linspace(0, total, min(limit, total), endpoint=False).astype(np.int64))
        truncated = tokens = unknown = 0
        for i in candidates[chosen].tolist():
            tokenizer = tokenizer_of(self._samples.tokenizer, self._language(i))
            ids, mask, cut = tokenizer.encode(self.examples.captions[i], self._samples.max_words)
            before, after = tokenizer.special_counts
            words = ids[before : int(mask.sum()) - after]
            truncated += cut
            tokens += len(words)
            unknown += int(np.isin(words, tokenizer.unknown_ids).sum())
        return CaptionSample(len(chosen), truncated, tokens, unknown)

    def _language(self, index: int) -> int | None:
        """The language of a caption; None where all captions are of one language."""
        languages = self.examples.languages
        return None if languages is None else int(languages[index])

    def _readable_pair(self, epoch: int, index: int) -> Sample:
        """The pair `index`, or the next one whose video can be read; the first pair follows the last."""
        unreadable: set[int] = set()
        for step in range(len(self)):
            candidate = (index + step) % len(self)
            video = int(self.examples.video_of_caption[candidate])
            if video in unreadable:
                continue
            try:
                return self._pair(epoch, candidate) | {"replaced": torch.tensor(int(step > 0))}
            except (FramesError, TooFewFramesError) as error:
                unreadable.add(video)
                last_error = error
                self._report(self.examples.video_ids[video], error)
                if len(unreadable) == MAX_UNREADABLE:
                    break
        raise last_error

    def _report(self, video_id: str, error: Exception) -> None:
        """Log why a video was replaced, once per process and video."""
        if video_id not in self._reported:
            self._reported.add(video_id)
            logger.warning("replaced an unreadable video: %s", error)

    def _pair(self, epoch: int, index: int) -> Sample:
        rng = sample_rng(self._seed, epoch, index)
        video, tags = int(self.examples.video_of_caption[index]), self.examples.tags
        return (
            self._clip(video, rng)
            | _number(index)
            | {"video": torch.tensor(video)}
            | self._samples.training_texts(
                self.examples.captions[index],
                None if tags is None else tags[index],
                language=self._language(index),
                rng=rng,
            )
        )

    def _clip(self, video: int, rng: np.random.Generator) -> Sample:
        durations = self.examples.durations
        return self._samples.clip(
            _StoredVideo(self._store, self.examples.video_ids[video], self._first_seconds),
            None if durations is None else min(float(durations[video]), self._first_seconds or math.inf),
            rng,
        )

    def _check_choices(self, frame_sample: str, frame_sample_len: str) -> None:
        if frame_sample not in FRAME_SAMPLES:
            raise UserError(f"--frame_sample {frame_sample}: choose from {', '.join(FRAME_SAMPLES)}")
        if frame_sample_len not in FRAME_SAMPLE_LENS:
            raise UserError(
                f"--frame_sample_len {frame_sample_len}: choose from {', '.join(FRAME_SAMPLE_LENS)}"
            )

    def _check_videos(self) -> None:
        """Raise `UserError` for settings that would fail on every sample."""
        if self.view != "captions" and self._samples.dynamic:
            self._check_durations()
        if self._samples.frame_sample == "random":
            self._check_stored_frames()

    def _check_durations(self) -> None:
        durations = self.examples.durations
        unknown = self.examples.num_videos if durations is None else int(np.isnan(durations).sum())
        if unknown:
            raise UserError(
                f"--frame_sample_len dynamic: {unknown} of {self.examples.num_videos} videos have no duration"
                " in the annotations or in the frame store; use --frame_sample_len fix"
            )

    def _check_stored_frames(self) -> None:
        """`random` sampling needs as many stored frames as a clip has, in some of the inspected videos."""
        stored = self.probe_stored_frames().max(initial=0)
        frames = self._samples.max_frames
        if 0 < stored < frames:
            sample_frame_indices(int(stored), frames, frame_sample="random", rng=np.random.default_rng(0))

    def probe_stored_frames(self) -> NDArray[np.int64]:
        """How many frames are stored of a few videos of the whole split; absent videos are left out.

        Most stores have equally many frames of all videos.
        """
        spread = np.linspace(0, self.examples.num_videos, _PROBES, endpoint=False).astype(np.int64)
        probes = [self.examples.video_ids[int(video)] for video in np.unique(spread)]
        counts = np.array([self._store.num_frames(video_id) for video_id in probes], dtype=np.int64)
        return counts[counts > 0]


def _number(index: int) -> dict[str, Tensor]:
    return {"index": torch.tensor(index)}
