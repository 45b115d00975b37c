"""`Retriever`: a model that encodes texts, videos and pictures, and searches an index with them.

D joint width. All vectors have length 1.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import UserError
from common.languages import LANGUAGES
from dataloaders.datasets.registry import dataset_spec
from dataloaders.tokenization import tokenizer_of
from engine.config import Config
from engine.distributed.device import default_device
from engine.input_spec import input_spec
from engine.model_setup import build_model
from modules.backbones.backbone import Backbone
from search.encoder import Encoder, unit
from search.index_folder import VideoIndex
from search.index_format import ZERO_SHOT, VideoIndexError, kind_of, read_settings
from search.model_identity import identity_of, model_config, model_of_index, settings_record
from search.models.pretrained import (
    DEFAULT_MODEL,
    loading_errors,
    named_model,
    pretrained_identity,
    pretrained_of_index,
    pretrained_settings,
)
from search.query import (
    EXCLUDE_WEIGHT,
    QueryError,
    check_frame_weight,
    check_text,
    check_top,
    check_top_frames,
    clean_text,
)
from search.reranking import HeadScorer
from search.results import SearchResults
from search.searching import find

CANDIDATES = 2400  # rows of each view whose exact score is computed


class Retriever(Encoder):
    """A model that searches. Make one by `from_checkpoint`, `from_pretrained` or `for_index`."""

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
    def from_pretrained(
        cls,
        model: str = DEFAULT_MODEL,
        *,
        max_frames: int | None = None,
        top_frames: int | None = None,
        max_words: int | None = None,
        tokenizer: str | None = None,
        cache_dir: str | None = None,
        device: torch.device | str | None = None,
    ) -> Retriever:
        """A published image-text model as it is, never trained on videos (zero-shot).

        `model`: an open_clip name with or without a tag or file of weights ("ViT-B-16-SigLIP2:webli"), a
        repository of the hub ("OWNER/NAME"), or a folder with such a model. A video's vector is the mean of
        its frames' (meanP, Luo et al. 2021), and its best frames count beside it. Raises `UserError`: unknown
        names with near ones, absent weights with what to fetch.
        """
        given = {
            "max_frames": max_frames,
            "top_frames": top_frames,
            "max_words": max_words,
            "tokenizer": tokenizer,
            "cache_dir": cache_dir,
        }
        return cls._of_pretrained({**named_model(model), **given}, device)

    @classmethod
    def for_index(
        cls,
        index: VideoIndex | str | os.PathLike[str],
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        model: str | None = None,
        device: torch.device | str | None = None,
    ) -> Retriever:
        """The model that made `index`, from the path or name stored there, or from `checkpoint` or `model`.

        Raises `UserError` if that is absent or does not fit the settings of the index.
        """
        settings = index.settings if isinstance(index, VideoIndex) else read_settings(Path(index))
        held = dict(settings.model)
        zero_shot = kind_of(held) == ZERO_SHOT
        if (checkpoint if zero_shot else model) is not None:
            right = "--model" if zero_shot else "--init_model"
            raise UserError(f"the index was made by a {kind_of(held)} model: {held['path']}; give {right}")
        if zero_shot:
            return cls._of_pretrained(pretrained_of_index(held["settings"], model), device)
        path = checkpoint if checkpoint is not None else held["path"]
        try:
            retriever = cls._build(model_of_index(path, held["settings"]), device)
        except UserError as error:
            raise UserError(f"{error} (the model of the index; give its path with --init_model)") from None
        return retriever

    @classmethod
    def _of_pretrained(cls, settings: dict[str, Any], device: torch.device | str | None) -> Retriever:
        with loading_errors(settings):
            config, backbone = pretrained_settings(settings)
            return cls._build(config, device, backbone)

    @classmethod
    def _build(
        cls, config: Config, device: torch.device | str | None, backbone: Backbone | None = None
    ) -> Retriever:
        """`backbone`: the published model, where there is no checkpoint."""
        model = build_model(config, logging.getLogger(__name__), backbone)
        spec = input_spec(config, model)
        if backbone is None:
            identity, words = identity_of(config), dataset_spec(config.dataset).split("test").words
        else:
            identity, words = pretrained_identity(config, backbone), spec.context_length
        return cls(
            model,
            spec.tokenizer,
            config=config,
            identity={**identity, "settings": settings_record(config)},
            image_size=spec.image_size,
            max_words=spec.words(config.max_words, words),
            device=device or default_device(),
        )

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
            query = unit(torch.from_numpy(opened.vector(video_id)))
            results = self._find(
                opened, query, top=top + 1, frame_weight=frame_weight, top_frames=top_frames,
                candidates=candidates, remarks=(), started=started,
            )  # fmt: skip
        hits = tuple(hit for hit in results.hits if video_id not in (hit.video_id, *hit.copies))[:top]
        return SearchResults(hits, results.remarks, results.seconds, results.model)

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
        return unit(torch.from_numpy(query)), tuple(dict.fromkeys(remarks))

    def _text_vector(self, text: str, name: str, remarks: list[str], language: str | None) -> np.ndarray:
        clean = clean_text(text, language=self.trained_language, name=name)
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
        return SearchResults(hits, remarks, time.perf_counter() - started, kind_of(self.identity))

    @torch.inference_mode()
    def _scorer(self, query: np.ndarray, text: str | None, language: str | None) -> HeadScorer:
        if text is None:
            return HeadScorer.of_vector(self.head, query, self.device)
        clean = clean_text(text, language=self.trained_language, name="query")
        return HeadScorer(self.head, self._text_rows([clean.text], language))


def _opened(index: VideoIndex | str | os.PathLike[str]) -> AbstractContextManager[VideoIndex]:
    """The index, as a context that closes it only if it was opened here."""
    if not isinstance(index, VideoIndex | str | os.PathLike):
        raise VideoIndexError(f"index: give the folder of an index, not {type(index).__name__}")
    return nullcontext(index) if isinstance(index, VideoIndex) else VideoIndex(index)
