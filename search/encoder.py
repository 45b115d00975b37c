"""`Encoder`: a model in evaluation mode that makes vectors of texts, videos and pictures.

B inputs, D joint width, F frames a video, W words, S pixels a side. All vectors have length 1.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.languages import BILINGUAL, LANGUAGES, language_of, languages_of
from dataloaders.tokenization import Tokenizer, TokenizerPair, tokenizer_of
from dataloaders.transforms import FrameSize, resize_and_crop
from engine.config import Config
from modules.dual_encoder import DualEncoder
from modules.heads.head import SimilarityHead
from modules.numerics import l2_normalize
from search.index_format import ZERO_SHOT, kind_of
from search.query import QueryError, check_path, check_text

_TEXTS_AT_ONCE = 256
_FRAMES_AT_ONCE = 96


@dataclass(frozen=True)
class EncodedVideo:
    """`video` [D] and `frames` [F, D], float32; `times` seconds of the frames; `duration` seconds."""

    video: np.ndarray
    frames: np.ndarray
    times: tuple[float | None, ...]
    duration: float | None


class Encoder:
    """A model with its tokenizer. `identity` is the record of the model that an index keeps."""

    def __init__(
        self,
        model: DualEncoder,
        tokenizer: Tokenizer | TokenizerPair,
        *,
        config: Config,
        identity: dict[str, Any],
        image_size: FrameSize,
        max_words: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.model = model.eval().to(self.device)
        self.config = config
        self.identity = identity
        self.image_size = image_size
        self._tokenizer = tokenizer
        self._max_words = max_words

    @property
    def width(self) -> int:
        """D."""
        return int(self.model.text_encoder.embed_dim)  # type: ignore[arg-type]

    @property
    def frames(self) -> int:
        """F."""
        return self.config.max_frames

    @property
    def head(self) -> SimilarityHead:
        return self.model.head

    @property
    def frame_weight(self) -> float:
        """The default weight of the frame score, as in evaluation: 1, or 0 if the head reads no frames."""
        return float(self.head.reads("frames"))

    @property
    def trained_language(self) -> str | None:
        """The language of the model's texts, for remarks; None: a published model of many languages."""
        many = kind_of(self.identity) == ZERO_SHOT and self.config.language == BILINGUAL
        return None if many else self.config.language

    def language_of(self, text: str, language: str | None = None) -> str:
        """The language in which the model reads `text`: the given one, or that of its letters.

        Raises `QueryError` for a language that the model lacks.
        """
        known = languages_of(self.config.language)
        if language is None:
            return known[0] if len(known) == 1 else language_of(text)
        if language not in known:
            raise QueryError(f"language {language}: the model reads {' and '.join(known)} texts only")
        return language

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str], *, language: str | None = None) -> np.ndarray:
        """[B, D], float32. The texts are encoded as they are; `search` cleans and checks its query first.

        `language`: "english" or "chinese", which a bilingual model otherwise tells by the letters of each
        text. Raises `QueryError` if `texts` is no list of texts, or for a language that the model lacks.
        """
        if isinstance(texts, str) or not isinstance(texts, Sequence):
            raise QueryError(f"texts: give a list of texts, not {type(texts).__name__}")
        texts = [check_text(text, "text") for text in texts]
        chunks = [texts[start : start + _TEXTS_AT_ONCE] for start in range(0, len(texts), _TEXTS_AT_ONCE)]
        rows = [unit(self.head.pooled_text(self._text_rows(chunk, language))) for chunk in chunks]
        return np.concatenate(rows) if rows else np.zeros((0, self.width), np.float32)

    def _text_rows(self, texts: Sequence[str], language: str | None) -> dict[str, Tensor]:
        """What heads read of texts: `text` [B, D], `words` [B, W, D], `word_mask` [B, W]."""
        ids, mask, numbers = self._tokens(texts, language)
        text, words = self.model.encode_words(ids, mask, torch.tensor(numbers))
        return {"text": text.float(), "words": words.float(), "word_mask": mask.bool()}

    def _tokens(self, texts: Sequence[str], language: str | None) -> tuple[Tensor, Tensor, list[int]]:
        """Ids [B, W], mask [B, W] and the number of the language of each text."""
        numbers = [LANGUAGES.index(self.language_of(text, language)) for text in texts]
        encoded = [
            tokenizer_of(self._tokenizer, number).encode(text, self._max_words)
            for number, text in zip(numbers, texts, strict=True)
        ]
        ids, mask = (
            torch.from_numpy(np.stack([item[part] for item in encoded])).to(self.device) for part in (0, 1)
        )
        return ids, mask, numbers

    @torch.inference_mode()
    def encode_clips(self, frames: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Video embeds [B, D] and frame embeds [B, F, D] of uint8 clips [B, F, 3, S, S], float32."""
        video, each, _ = self.encode_with_lengths(frames)
        return video, each

    @torch.inference_mode()
    def encode_with_lengths(self, frames: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`encode_clips`, and the lengths [B, F] of the frame embeds before they were normalised."""
        video, each = self.model.encode_video(frames.to(self.device))
        lengths = torch.linalg.vector_norm(each.float(), dim=-1)
        return unit(video), unit(each), lengths.cpu().numpy()

    @torch.inference_mode()
    def encode_frames(self, frames: Tensor) -> np.ndarray:
        """Features [N, D] of uint8 frames [N, 3, S, S], float32, not normalised: input of `pool_frames`."""
        encode: Any = self.model.visual_encoder.encode_frames
        chunks = torch.split(frames, _FRAMES_AT_ONCE)
        rows = [encode(chunk.to(self.device)).float().cpu().numpy() for chunk in chunks]
        return np.concatenate(rows) if len(frames) else np.zeros((0, self.width), np.float32)

    @torch.inference_mode()
    def pool_frames(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What `encode_with_lengths` returns, from features [B, F, D] of single frames."""
        pool: Any = self.model.visual_encoder.pool_frames
        video, each = pool(torch.from_numpy(features).to(self.device))
        lengths = torch.linalg.vector_norm(each.float(), dim=-1)
        return unit(video), unit(each), lengths.cpu().numpy()

    def encode_video(self, path: str | os.PathLike[str]) -> EncodedVideo:
        """Encode a video file. Raises `search.clips.ClipError` (a `UserError`) if it gives no frames."""
        from search.clips import clip_of_file  # here: a query in words needs no decoder

        clip = clip_of_file(check_path(path, "video"), frames=self.frames, size=self.image_size)
        video, frames = self.encode_clips(clip.frames[None])
        return EncodedVideo(video[0], frames[0], clip.times, clip.duration)

    def encode_image(self, path: str | os.PathLike[str]) -> np.ndarray:
        """[D] of a picture file. Raises `search.clips.ClipError` (a `UserError`) if it cannot be read."""
        from search.clips import picture_of_file

        return self.encode_picture(picture_of_file(check_path(path, "image")))

    def encode_picture(self, picture: np.ndarray) -> np.ndarray:
        """[D] of an RGB picture uint8 [H, W, 3]. Raises `QueryError` if `picture` is none."""
        if getattr(picture, "dtype", None) != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise QueryError(
                "picture: give an array of uint8 [height, width, 3], in the order red, green, blue"
            )
        return self.encode_clips(resize_and_crop([picture], self.image_size)[None])[1][0, 0]


def unit(vectors: Tensor) -> np.ndarray:
    """Vectors [..., D] of length 1, float32."""
    return l2_normalize(vectors.detach().float()).cpu().numpy()
