"""The Dataset: clips and texts of one split, in three views.

V videos, N captions, F frames, S side, W words (W' of the tag). Keys and types: docs/ARCHITECTURE.md.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from common.errors import UserError
from dataloaders.augmentation import Augmentation, draw_augmentation, no_colours
from dataloaders.colour_augmentation import augment_colours
from dataloaders.encoded_frames import encoded_clip
from dataloaders.examples import Examples
from dataloaders.frame_sampling import (
    FRAME_SAMPLES,
    TooFewFramesError,
    dynamic_length,
    sample_frame_indices,
)
from dataloaders.frame_store.jpeg import Excess
from dataloaders.frame_store.reader import FrameStoreError
from dataloaders.token_masking import mask_tokens
from dataloaders.tokenization import Tokenizer, TokenizerPair, tokenizer_of
from dataloaders.transforms import FrameSize, as_resize, excess_of_resize, fill_clip

logger = logging.getLogger(__name__)

VIEWS = ("pairs", "videos", "captions")
FRAME_SAMPLE_LENS = ("fix", "dynamic")
# Training gives up after this many unreadable videos in a row: then the store is broken, not a video.
MAX_UNREADABLE = 10
_PROBES = 64

Sample = dict[str, Any]
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


class FrameReader(Protocol):
    """The methods of a frame store that the Dataset uses."""

    def num_frames(self, video_id: str) -> int: ...

    def iter_frames(
        self, video_id: str, indices: Sequence[int], excess: Sequence[Excess] | None = None
    ) -> Iterable[NDArray[np.uint8]]: ...

    def read_jpegs(self, video_id: str, indices: Sequence[int]) -> list[bytes]: ...


class VideoTextDataset(Dataset[Sample]):
    """Samples of `examples` with frames from `store`.

    - `pairs`, for training: each caption with a clip of its video. An unreadable video is replaced by the
      next example of another video; the sample's `replaced` is 1 then.
    - `videos` and `captions`, for evaluation: each once. Frames are sampled uniformly, nothing is augmented
      or masked, and an unreadable video raises `FrameStoreError`.

    Read as `ds[i]` or `ds[(epoch, i)]`; all randomness depends on (seed, epoch, i) only. With
    `frame_sample_len` "dynamic", a clip has min(max(int(duration * `duration_factor`), 3), F) frames, then
    zero padding; evaluation on a data set without durations uses F frames. `augment` ("frame" or "clip")
    turns on CHVTT's pre-training augmentation: crops are made here, and colours too with `colours_here`, else
    the sample has what was drawn for them as `colours` [F, C]. `scaled_decoding`: see `decode_jpeg`, and
    `encoded`: JPEGs in place of `frames` (encoded_frames.py); both for training only. `mlm` adds masked
    copies of the texts. No tags if `max_tag_words` is None. Samples of examples with `languages` have the
    number of theirs as `language`.

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
        augment: str | None = None,
        colours_here: bool = False,
        scaled_decoding: bool = False,
        encoded: bool = False,
        mlm: bool = False,
        seed: int = 0,
    ) -> None:
        self._resize = as_resize(image_size)
        assert view in VIEWS and max_frames > 0 and self._resize.size > 0 and seed >= 0
        self.examples = examples
        self.view = view
        self._store = store
        self._tokenizer = tokenizer
        self._max_words = max_words
        self._max_tag_words = max_tag_words if examples.tags is not None else None
        self._max_frames = max_frames
        self._image_size = self._resize.size
        self._frame_sample = frame_sample if view == "pairs" else "uniform"
        self._dynamic = frame_sample_len == "dynamic" and (view == "pairs" or examples.durations is not None)
        self._duration_factor = duration_factor
        self._augment_per = augment if view == "pairs" else None
        self._colours_here = colours_here
        self._scaled_decoding = scaled_decoding and view == "pairs"
        self._encoded = encoded and view == "pairs"
        self._mlm = mlm and view == "pairs"
        self._seed = seed
        self._reported: set[str] = set()
        self._check(frame_sample, frame_sample_len)

    def __len__(self) -> int:
        return self.examples.num_videos if self.view == "videos" else self.examples.num_captions

    def __getitem__(self, key: SampleKey) -> Sample:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        if self.view == "videos":
            return self._clip(index, self._rng(epoch, index)) | _number(index)
        if self.view == "captions":
            text = self._text("text", self.examples.captions[index], self._max_words, self._language(index))
            return text | self._language_entry(index) | _number(index)
        return self._readable_pair(epoch, index)

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample's frames; the texts are small in comparison."""
        return 0 if self.view == "captions" else self._max_frames * 3 * self._image_size**2

    @property
    def language(self) -> int | None:
        """The language of the first caption; None where all captions are of one language."""
        return self._language(0)

    def tokenizer_source(self, language: int | None = None) -> str:
        """The flag that the tokenizer of a language comes from, for messages."""
        return tokenizer_of(self._tokenizer, language).source

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
            tokenizer = tokenizer_of(self._tokenizer, self._language(i))
            ids, mask, cut = tokenizer.encode(self.examples.captions[i], self._max_words)
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

    def _language_entry(self, index: int) -> Sample:
        language = self._language(index)
        return {} if language is None else {"language": torch.tensor(language)}

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
            except (FrameStoreError, TooFewFramesError) as error:
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
        rng = self._rng(epoch, index)
        video = int(self.examples.video_of_caption[index])
        sample = self._clip(video, rng) | _number(index) | {"video": torch.tensor(video)}
        language = self._language(index)
        text = partial(self._training_text, language=language, rng=rng)
        sample |= self._language_entry(index) | text("text", self.examples.captions[index], self._max_words)
        if self._max_tag_words is not None:
            assert self.examples.tags is not None
            sample |= text("tag", self.examples.tags[index], self._max_tag_words)
        return sample

    def _clip(self, video: int, rng: np.random.Generator) -> Sample:
        """`frames` [F, 3, S, S] and `frame_mask` [F] of one video, perhaps with `colours` [F, C]."""
        video_id = self.examples.video_ids[video]
        stored = self._store.num_frames(video_id)
        if stored == 0:
            raise FrameStoreError(
                f"video {video_id} is not in the frame store {getattr(self._store, 'path', '')}"
            )
        length = self._clip_length(video)
        try:
            indices = sample_frame_indices(stored, length, frame_sample=self._frame_sample, rng=rng)
        except TooFewFramesError as error:
            raise TooFewFramesError(f"video {video_id}: {error}") from None
        mask = {"frame_mask": torch.arange(self._max_frames) < length}
        if self._encoded:
            return mask | self._encoded_clip(video_id, indices.tolist(), rng)
        clip = torch.empty(self._max_frames, 3, self._image_size, self._image_size, dtype=torch.uint8)
        clip[length:] = 0
        sample = {"frames": clip} | mask
        read = partial(self._read_frames, video_id, indices.tolist())
        if self._augment_per is None:
            fill_clip(clip[:length], read([excess_of_resize(self._resize)] * length), self._resize)
            return sample
        drawn = draw_augmentation(length, per=self._augment_per, rng=rng)
        drawn.fill(clip[:length], read([crop.excess(self._image_size) for crop in drawn.crops]))
        colours = self._colours(drawn)
        if not self._colours_here:
            return sample | {"colours": colours}
        augment_colours(clip, colours)
        return sample

    def _encoded_clip(self, video_id: str, indices: list[int], rng: np.random.Generator) -> Sample:
        """The clip as JPEGs; the colours are changed where they are decoded."""
        drawn = None
        if self._augment_per is not None:
            drawn = draw_augmentation(len(indices), per=self._augment_per, rng=rng)
        jpegs = self._store.read_jpegs(video_id, indices)
        try:
            sample = encoded_clip(
                jpegs,
                max_frames=self._max_frames,
                image_size=self._resize,
                augmentation=drawn,
            )
        except UserError as error:
            raise FrameStoreError(f"video {video_id}: {error}") from None
        return sample if drawn is None else sample | {"colours": self._colours(drawn)}

    def _colours(self, drawn: Augmentation) -> Tensor:
        """[F, C]: padded frames keep theirs."""
        colours = no_colours(self._max_frames)
        colours[: len(drawn.colours)] = torch.from_numpy(drawn.colours)
        return colours

    def _read_frames(
        self, video_id: str, indices: list[int], excess: list[Excess]
    ) -> Iterable[NDArray[np.uint8]]:
        return self._store.iter_frames(video_id, indices, excess if self._scaled_decoding else None)

    def _clip_length(self, video: int) -> int:
        if not self._dynamic:
            return self._max_frames
        assert self.examples.durations is not None
        duration = float(self.examples.durations[video])
        return dynamic_length(duration, self._max_frames, factor=self._duration_factor)

    def _text(self, name: str, text: str, max_words: int, language: int | None) -> Sample:
        ids, mask, _ = tokenizer_of(self._tokenizer, language).encode(text, max_words)
        return {f"{name}_ids": torch.from_numpy(ids), f"{name}_mask": torch.from_numpy(mask)}

    def _training_text(
        self, name: str, text: str, max_words: int, *, language: int | None, rng: np.random.Generator
    ) -> Sample:
        sample = self._text(name, text, max_words, language)
        if not self._mlm:
            return sample
        tokenizer = tokenizer_of(self._tokenizer, language)
        masked, labels = mask_tokens(
            sample[f"{name}_ids"].numpy(),
            sample[f"{name}_mask"].numpy(),
            rng=rng,
            mask_token_id=tokenizer.mask_token_id,
            vocab_size=tokenizer.vocab_size,
            special_ids=tokenizer.special_ids,
            special_counts=tokenizer.special_counts,
        )
        return sample | {
            f"{name}_mlm_ids": torch.from_numpy(masked),
            f"{name}_mlm_labels": torch.from_numpy(labels),
        }

    def _rng(self, epoch: int, index: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence((self._seed, epoch, index)))

    def _check(self, frame_sample: str, frame_sample_len: str) -> None:
        """Raise `UserError` for settings that would fail on every sample."""
        if frame_sample not in FRAME_SAMPLES:
            raise UserError(f"--frame_sample {frame_sample}: choose from {', '.join(FRAME_SAMPLES)}")
        if frame_sample_len not in FRAME_SAMPLE_LENS:
            raise UserError(
                f"--frame_sample_len {frame_sample_len}: choose from {', '.join(FRAME_SAMPLE_LENS)}"
            )
        if min(self._max_words, self._max_tag_words or self._max_words) < 3:
            raise UserError(f"--max_words {self._max_words}: start, end and one token need at least 3")
        if self.view != "captions" and self._dynamic:
            self._check_durations()
        if self._frame_sample == "random":
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
        if 0 < stored < self._max_frames:
            sample_frame_indices(
                int(stored), self._max_frames, frame_sample="random", rng=np.random.default_rng(0)
            )

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
