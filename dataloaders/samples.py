"""Samples of the model from videos and texts, wherever these come from: clips, token ids, masked copies.

F frames, S side, W words. Keys and types: docs/ARCHITECTURE.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import UserError
from dataloaders.augmentation import Augmentation, draw_augmentation, no_colours
from dataloaders.colour_augmentation import augment_colours
from dataloaders.encoded_frames import encoded_clip
from dataloaders.frame_sampling import TooFewFramesError, dynamic_length, sample_frame_indices
from dataloaders.frame_source import FramesError
from dataloaders.frame_store.jpeg import Excess
from dataloaders.token_masking import mask_tokens
from dataloaders.tokenization import Tokenizer, TokenizerPair, tokenizer_of
from dataloaders.transforms import FrameSize, as_resize, excess_of_resize, fill_clip

Sample = dict[str, Any]


class Video(Protocol):
    """The frames of one video. `name` is for messages."""

    name: str

    def num_frames(self) -> int: ...

    def iter_frames(
        self, indices: Sequence[int], excess: Sequence[Excess] | None = None
    ) -> Iterable[NDArray[np.uint8]]: ...

    def read_jpegs(self, indices: Sequence[int]) -> list[bytes]: ...


class SampleMaker:
    """Makes clips and texts of samples. All randomness comes from the generator that a call is given.

    With `dynamic` lengths a clip has min(max(int(duration * `duration_factor`), 3), F) frames, then zero
    padding. `augment` ("frame" or "clip") turns on CHVTT's pre-training augmentation: crops are made here,
    and colours too with `colours_here`, else the clip has what was drawn for them as `colours` [F, C].
    `scaled_decoding`: see `decode_jpeg`, and `encoded`: JPEGs in place of `frames` (encoded_frames.py).
    `mlm` adds masked copies of the texts. No tags if `max_tag_words` is None.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | TokenizerPair,
        *,
        max_words: int,
        max_frames: int,
        image_size: FrameSize,
        max_tag_words: int | None = None,
        frame_sample: str = "uniform",
        dynamic: bool = False,
        duration_factor: float = 0.5,
        augment: str | None = None,
        colours_here: bool = False,
        scaled_decoding: bool = False,
        encoded: bool = False,
        mlm: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_words = max_words
        self.max_tag_words = max_tag_words
        self.max_frames = max_frames
        self.resize = as_resize(image_size)
        assert max_frames > 0 and self.resize.size > 0
        self.image_size = self.resize.size
        self.frame_sample = frame_sample
        self.dynamic = dynamic
        self._duration_factor = duration_factor
        self._augment_per = augment
        self._colours_here = colours_here
        self._scaled_decoding = scaled_decoding
        self._encoded = encoded
        self._mlm = mlm
        if min(max_words, max_tag_words or max_words) < 3:
            raise UserError(f"--max_words {max_words}: start, end and one token need at least 3")

    @property
    def clip_bytes(self) -> int:
        """Bytes of one clip's frames."""
        return self.max_frames * 3 * self.image_size**2

    def clip(self, video: Video, duration: float | None, rng: np.random.Generator) -> Sample:
        """`frames` [F, 3, S, S] and `frame_mask` [F] of one video, perhaps with `colours` [F, C].

        `duration` in seconds is needed for dynamic lengths. Raises `FramesError` for frames that cannot
        be read and `TooFewFramesError` for a video with fewer frames than a random clip.
        """
        stored = video.num_frames()
        length = self._clip_length(duration)
        try:
            indices = sample_frame_indices(stored, length, frame_sample=self.frame_sample, rng=rng)
        except TooFewFramesError as error:
            raise TooFewFramesError(f"video {video.name}: {error}") from None
        mask = {"frame_mask": torch.arange(self.max_frames) < length}
        if self._encoded:
            return mask | self._encoded_clip(video, indices.tolist(), rng)
        clip = torch.empty(self.max_frames, 3, self.image_size, self.image_size, dtype=torch.uint8)
        clip[length:] = 0
        sample = {"frames": clip} | mask
        read = partial(self._read_frames, video, indices.tolist())
        if self._augment_per is None:
            fill_clip(clip[:length], read([excess_of_resize(self.resize)] * length), self.resize)
            return sample
        drawn = draw_augmentation(length, per=self._augment_per, rng=rng)
        drawn.fill(clip[:length], read([crop.excess(self.image_size) for crop in drawn.crops]))
        colours = self._colours(drawn)
        if not self._colours_here:
            return sample | {"colours": colours}
        augment_colours(clip, colours)
        return sample

    def text(self, caption: str, *, language: int | None) -> Sample:
        """`text_ids` and `text_mask` [W]; `language` if given."""
        return _language_entry(language) | self._text("text", caption, self.max_words, language)

    def training_texts(
        self, caption: str, tag: str | None, *, language: int | None, rng: np.random.Generator
    ) -> Sample:
        """`text` of the caption and `tag` of the tags, perhaps with masked copies; `language` if given."""
        sample = _language_entry(language)
        sample |= self._training_text("text", caption, self.max_words, language=language, rng=rng)
        if self.max_tag_words is not None:
            assert tag is not None
            sample |= self._training_text("tag", tag, self.max_tag_words, language=language, rng=rng)
        return sample

    def _encoded_clip(self, video: Video, indices: list[int], rng: np.random.Generator) -> Sample:
        """The clip as JPEGs; the colours are changed where they are decoded."""
        drawn = None
        if self._augment_per is not None:
            drawn = draw_augmentation(len(indices), per=self._augment_per, rng=rng)
        jpegs = video.read_jpegs(indices)
        try:
            sample = encoded_clip(
                jpegs,
                max_frames=self.max_frames,
                image_size=self.resize,
                augmentation=drawn,
            )
        except UserError as error:
            raise FramesError(f"video {video.name}: {error}") from None
        return sample if drawn is None else sample | {"colours": self._colours(drawn)}

    def _colours(self, drawn: Augmentation) -> Tensor:
        """[F, C]: padded frames keep theirs."""
        colours = no_colours(self.max_frames)
        colours[: len(drawn.colours)] = torch.from_numpy(drawn.colours)
        return colours

    def _read_frames(
        self, video: Video, indices: list[int], excess: list[Excess]
    ) -> Iterable[NDArray[np.uint8]]:
        return video.iter_frames(indices, excess if self._scaled_decoding else None)

    def _clip_length(self, duration: float | None) -> int:
        if not self.dynamic:
            return self.max_frames
        assert duration is not None
        return dynamic_length(duration, self.max_frames, factor=self._duration_factor)

    def _text(self, name: str, text: str, max_words: int, language: int | None) -> Sample:
        ids, mask, _ = tokenizer_of(self.tokenizer, language).encode(text, max_words)
        return {f"{name}_ids": torch.from_numpy(ids), f"{name}_mask": torch.from_numpy(mask)}

    def _training_text(
        self, name: str, text: str, max_words: int, *, language: int | None, rng: np.random.Generator
    ) -> Sample:
        sample = self._text(name, text, max_words, language)
        if not self._mlm:
            return sample
        tokenizer = tokenizer_of(self.tokenizer, language)
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


def _language_entry(language: int | None) -> Sample:
    return {} if language is None else {"language": torch.tensor(language)}


def sample_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator of all that is random in one sample of one epoch."""
    return np.random.default_rng(np.random.SeedSequence((seed, epoch, index)))
