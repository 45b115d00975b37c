"""`Retriever`: a trained model that encodes texts, videos and pictures, and searches an index with them.

B inputs, D joint width, F frames a video, S pixels a side. All vectors have length 1.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from common.languages import LANGUAGES, language_of, languages_of
from dataloaders.datasets.registry import dataset_spec
from dataloaders.tokenization import Tokenizer, TokenizerPair, tokenizer_of
from dataloaders.transforms import FrameSize, resize_and_crop
from engine.config import Config
from engine.data import input_spec
from engine.distributed.device import default_device
from engine.model_setup import build_model
from modules.dual_encoder import DualEncoder
from modules.heads.head import SimilarityHead
from modules.numerics import l2_normalize
from search.index_folder import VideoIndex
from search.index_format import VideoIndexError, read_settings
from search.model_identity import identity_of, model_config, model_of_index, settings_record
from search.query import (
    EXCLUDE_WEIGHT,
    QueryError,
    check_frame_weight,
    check_path,
    check_text,
    check_top,
    check_top_frames,
    clean_text,
)
from search.reranking import HeadScorer
from search.results import SearchResults
from search.searching import find

CANDIDATES = 2400  # rows of each view whose exact score is computed
_TEXTS_AT_ONCE = 256


@dataclass(frozen=True)
class EncodedVideo:
    """`video` [D] and `frames` [F, D], float32; `times` seconds of the frames; `duration` seconds."""

    video: np.ndarray
    frames: np.ndarray
    times: tuple[float | None, ...]
    duration: float | None


class Retriever:
    """A model with its tokenizer, in evaluation mode. Make one by `from_checkpoint` or `for_index`."""

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

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: str | os.PathLike[str],
        *,
        config: str | os.PathLike[str] | None = None,
        clip_model: str | None = None,
        pretrained_text: str | None = None,
        language: str | None = None,
        use_temp: bool | None = None,
        use_frame_fea: bool | None = None,
        head: str | None = None,
        top_frames: int | None = None,
        temporal_layers: int | None = None,
        max_frames: int | None = None,
        max_words: int | None = None,
        legacy_special_tokens: bool | None = None,
        cache_dir: str | None = None,
        device: torch.device | str | None = None,
    ) -> Retriever:
        """A model with the settings of `config`, or of the config.json in the checkpoint's folder.

        The other arguments override these settings; they are flags of main_task_retrieval.py. `device`: by
        default a GPU if there is one. Raises `UserError` that names the wrong file or flag.
        """
        settings = {
            "clip_model": clip_model,
            "pretrained_text": pretrained_text,
            "language": language,
            "use_temp": use_temp,
            "use_frame_fea": use_frame_fea,
            "head": head,
            "top_frames": top_frames,
            "temporal_layers": temporal_layers,
            "max_frames": max_frames,
            "max_words": max_words,
            "legacy_special_tokens": legacy_special_tokens,
            "cache_dir": cache_dir,
        }
        return cls._build(model_config(checkpoint, config=config, settings=settings), device)

    @classmethod
    def for_index(
        cls,
        index: VideoIndex | str | os.PathLike[str],
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        device: torch.device | str | None = None,
    ) -> Retriever:
        """The model that made `index`, from the path stored in the index, or from `checkpoint`.

        Raises `UserError` if the checkpoint is absent or does not fit the settings of the index.
        """
        settings = index.settings if isinstance(index, VideoIndex) else read_settings(Path(index))
        model = dict(settings.model)
        path = checkpoint if checkpoint is not None else model["path"]
        try:
            retriever = cls._build(model_of_index(path, model["settings"]), device)
        except UserError as error:
            raise UserError(f"{error} (the model of the index; give its path with --init_model)") from None
        return retriever

    @classmethod
    def _build(cls, config: Config, device: torch.device | str | None) -> Retriever:
        model = build_model(config, logging.getLogger(__name__))
        spec = input_spec(config, model)
        return cls(
            model,
            spec.tokenizer,
            config=config,
            identity={**identity_of(config), "settings": settings_record(config)},
            image_size=spec.image_size,
            max_words=spec.words(config.max_words, dataset_spec(config.dataset).split("test").words),
            device=device or default_device(),
        )

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

    # Encoding

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
        rows = [_unit(self.head.pooled_text(self._text_rows(chunk, language))) for chunk in chunks]
        return np.concatenate(rows) if rows else np.zeros((0, self.width), np.float32)

    def _text_rows(self, texts: Sequence[str], language: str | None) -> dict[str, Tensor]:
        """What heads read of texts: `text` [B, D], `words` [B, W, D], `word_mask` [B, W]."""
        numbers = [LANGUAGES.index(self.language_of(text, language)) for text in texts]
        encoded = [
            tokenizer_of(self._tokenizer, number).encode(text, self._max_words)
            for number, text in zip(numbers, texts, strict=True)
        ]
        ids, mask = (
            torch.from_numpy(np.stack([item[part] for item in encoded])).to(self.device) for part in (0, 1)
        )
        text, words = self.model.encode_words(ids, mask, torch.tensor(numbers))
        return {"text": text.float(), "words": words.float(), "word_mask": mask.bool()}

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
        return _unit(video), _unit(each), lengths.cpu().numpy()

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

    # Searching

    def search(
        self,
        index: VideoIndex | str | os.PathLike[str],
        text: str | None = None,
        *,
        image: str | os.PathLike[str] | None = None,
        video: str | os.PathLike[str] | None = None,
        exclude: str | Sequence[str] | None = None,
        language: str | None = None,
        top: int = 10,
        frame_weight: float | None = None,
        top_frames: int | None = None,
        candidates: int = CANDIDATES,
    ) -> SearchResults:
        """The best `top` videos of `index` for a text, a picture file, a video file, or several of these.

        The score is the cosine with the video plus `frame_weight` x the mean cosine with the `top_frames`
        best frames; the defaults are those of evaluation. Models with another head (WTI, X-Pool) score the
        best of these with it. `exclude` says what the videos should not show.
        `language` is that of the texts, as in `encode_text`. Raises `QueryError` for an invalid query and
        `VideoIndexError` for an index of another model.
        """
        check_top(top)
        started = time.perf_counter()
        query, remarks = self.query_vector(text, image=image, video=video, exclude=exclude, language=language)
        alone = text if image is None and video is None and not exclude else None
        return self._find(
            index, query, top=top, frame_weight=frame_weight, top_frames=top_frames, candidates=candidates,
            remarks=remarks, started=started, text=alone, language=language,
        )  # fmt: skip

    def similar(
        self,
        index: VideoIndex | str | os.PathLike[str],
        video_id: str,
        *,
        top: int = 10,
        frame_weight: float | None = None,
        top_frames: int | None = None,
        candidates: int = CANDIDATES,
    ) -> SearchResults:
        """The videos most like one of the index, without itself and its exact copies.

        Raises `VideoIndexError` for an unknown id.
        """
        check_top(top)
        started = time.perf_counter()
        with _opened(index) as opened:
            query = _unit(torch.from_numpy(opened.vector(video_id)))
            results = self._find(
                opened, query, top=top + 1, frame_weight=frame_weight, top_frames=top_frames,
                candidates=candidates, remarks=(), started=started,
            )  # fmt: skip
        hits = tuple(hit for hit in results.hits if video_id not in (hit.video_id, *hit.copies))[:top]
        return SearchResults(hits, results.remarks, results.seconds)

    def query_vector(
        self,
        text: str | None = None,
        *,
        image: str | os.PathLike[str] | None = None,
        video: str | os.PathLike[str] | None = None,
        exclude: str | Sequence[str] | None = None,
        language: str | None = None,
    ) -> tuple[np.ndarray, tuple[str, ...]]:
        """The unit vector [D] of a query and remarks for the user. Raises `QueryError`."""
        remarks: list[str] = []
        wanted = [self._text_vector(text, "query", remarks, language)] if text is not None else []
        wanted += [self.encode_image(image)] if image is not None else []
        wanted += [self.encode_video(video).video] if video is not None else []
        if not wanted:
            raise QueryError("the query is empty; give a text, a picture or a video")
        query = np.mean(wanted, axis=0)
        if not isinstance(exclude, str | Sequence | None):
            raise QueryError(f"the text to exclude must be a text or a list, not {type(exclude).__name__}")
        unwanted = [exclude] if isinstance(exclude, str) else list(exclude or ())
        unwanted = [item for item in unwanted if check_text(item, "text to exclude").strip()]
        if unwanted:
            away = [self._text_vector(item, "text to exclude", remarks, language) for item in unwanted]
            query = query - EXCLUDE_WEIGHT * np.mean(away, axis=0)
        return _unit(torch.from_numpy(query)), tuple(dict.fromkeys(remarks))

    def _text_vector(self, text: str, name: str, remarks: list[str], language: str | None) -> np.ndarray:
        clean = clean_text(text, language=self.config.language, name=name)
        remarks.extend(clean.remarks)
        read_as = self.language_of(clean.text, language)
        tokenizer = tokenizer_of(self._tokenizer, LANGUAGES.index(read_as))
        if tokenizer.encode(clean.text, self._max_words)[2]:
            many = ", in which a letter of another language counts several times" if clean.remarks else ""
            remarks.append(
                f"the {name} has more than the {self._max_words - 2} tokens that the model reads{many}; its "
                "end was left out"
            )
        return self.encode_text([clean.text], language=read_as)[0]

    def _find(
        self,
        index: VideoIndex | str | os.PathLike[str],
        query: np.ndarray,
        *,
        top: int,
        frame_weight: float | None,
        top_frames: int | None,
        candidates: int,
        remarks: tuple[str, ...],
        started: float,
        text: str | None = None,
        language: str | None = None,
    ) -> SearchResults:
        """`text`: the query where it is a single text, whose words the head may read."""
        with _opened(index) as opened:
            opened.check_model(self.identity)
            hits = find(
                opened,
                query,
                top=top,
                top_frames=check_top_frames(self.config.top_frames if top_frames is None else top_frames),
                frame_weight=check_frame_weight(self.frame_weight if frame_weight is None else frame_weight),
                candidates=candidates,
                scorer=None if self.head.is_of_cosines else self._scorer(query, text, language),
            )
        return SearchResults(hits, remarks, time.perf_counter() - started)

    @torch.inference_mode()
    def _scorer(self, query: np.ndarray, text: str | None, language: str | None) -> HeadScorer:
        if text is None:
            return HeadScorer.of_vector(self.head, query, self.device)
        clean = clean_text(text, language=self.config.language, name="query")
        return HeadScorer(self.head, self._text_rows([clean.text], language))


def _opened(index: VideoIndex | str | os.PathLike[str]) -> AbstractContextManager[VideoIndex]:
    """The index, as a context that closes it only if it was opened here."""
    if not isinstance(index, VideoIndex | str | os.PathLike):
        raise VideoIndexError(f"index: give the folder of an index, not {type(index).__name__}")
    return nullcontext(index) if isinstance(index, VideoIndex) else VideoIndex(index)


def _unit(vectors: Tensor) -> np.ndarray:
    return l2_normalize(vectors.detach().float()).cpu().numpy()
