"""`VideoTextModel`: a model with its preprocessing and tokenizer, to load, use and share.

N texts, V videos, F frames, W words, D joint width, S pixels a side.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
import torch
from huggingface_hub import ModelCard, ModelHubMixin
from huggingface_hub.errors import HfHubHTTPError
from torch import Tensor

from common.atomic_files import write_json
from common.errors import UserError, file_errors, first_line
from dataloaders.frame_sampling import even_frames
from dataloaders.transforms import resize_and_crop
from engine.checkpoint.files import save_state
from hmmc.model_card import model_card
from hmmc.saved_folder import Figures, figures_of, write_settings
from search.encoder import EncodedVideo
from search.index_format import ZERO_SHOT, kind_of
from search.models.pretrained import DEFAULT_MODEL
from search.models.saved import REPORT, WEIGHTS, find_checkpoint
from search.query import QueryError, check_path, check_text
from search.retriever import Retriever

Video: TypeAlias = str | os.PathLike[str] | np.ndarray | Sequence[np.ndarray]
Self = TypeVar("Self", bound="VideoTextModel")


@dataclass(frozen=True)
class VideoFeatures(EncodedVideo):
    """`lengths` [F] of the frame embeds before they were normalised, which some heads read."""

    lengths: np.ndarray


class VideoTextModel(
    Retriever,
    ModelHubMixin,
    library_name="hmmc",
    tags=["text-video-retrieval", "video-search"],
    pipeline_tag="feature-extraction",
    paper_url="https://doi.org/10.1109/TIP.2023.3275071",
):
    """A model in evaluation mode. `load_model` makes one.

    As a `Retriever` it also indexes and searches: `index_videos(model, ...)`, `model.search(index, text)`.
    `model.model` is the torch module, `model.config` the settings.
    """

    figures: Figures | None = None  # of the report on its evaluation, if there is one

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls: type[Self],
        model: str | os.PathLike[str] = DEFAULT_MODEL,
        *,
        device: torch.device | str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        **settings: Any,
    ) -> Self:
        """A model from a checkpoint file, an output folder, a saved folder, or a name.

        Of an output folder it is the reported epoch. A name is OWNER/NAME of the hub, of a model that was
        saved by `push_to_hub` or of a published image-text model, or one of open_clip's; published models are
        used as they are (zero-shot). `settings` override those saved with a checkpoint: the arguments of
        `Retriever.from_checkpoint`, or of `Retriever.from_pretrained` for a published model. The other
        arguments are huggingface_hub's. Raises `UserError` of one line.
        """
        checkpoint = find_checkpoint(
            model,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
        )
        if checkpoint is None:
            named = super().from_pretrained(os.fspath(model), cache_dir=cache_dir, device=device, **settings)
            return cast(Self, named)
        loaded = cast(Self, cls.from_checkpoint(checkpoint, device=device, cache_dir=cache_dir, **settings))
        loaded.figures = figures_of(checkpoint, str(loaded.identity["checkpoint_sha256"]))
        return loaded

    # Inputs

    def preprocess(self, video: Video) -> Tensor:
        """uint8 [F, 3, S, S], as `model.model.encode_video` takes clips.

        `video` is a file, or its frames in order: uint8 [n, H, W, 3] or a list of [H, W, 3], RGB. Of more
        than F frames, F are taken at equal distances, as in evaluation. Raises `QueryError` or `ClipError`.
        """
        return self._clip(video)[0]

    def tokenize(self, texts: Sequence[str], *, language: str | None = None) -> tuple[Tensor, Tensor]:
        """Ids and mask, int64 [N, W] each, as `model.model.encode_text` takes texts."""
        ids, mask, _ = self._tokens([check_text(text, "text") for text in texts], language)
        return ids, mask

    def _clip(self, video: Video) -> tuple[Tensor, tuple[float | None, ...], float | None]:
        if isinstance(video, str | os.PathLike):
            from search.clips import clip_of_file  # decoders, which a query in words does not need

            clip = clip_of_file(check_path(video, "video"), frames=self.frames, size=self.image_size)
            return clip.frames, clip.times, clip.duration
        frames = [_picture(frame) for frame in video]
        if not frames:
            raise QueryError("video: has no frames")
        if len(frames) > self.frames:
            frames = [frames[number] for number in even_frames(len(frames), self.frames)]
        return resize_and_crop(frames, self.image_size), (None,) * len(frames), None

    # Features

    @torch.inference_mode()
    def encode_video(self, video: Video) -> VideoFeatures:
        """The embeds of one video: a file, or its frames as in `preprocess`."""
        clip, times, duration = self._clip(video)
        embed, frames, lengths = self.encode_with_lengths(clip[None])
        return VideoFeatures(embed[0], frames[0], times, duration, lengths[0])

    @torch.inference_mode()
    def similarity(
        self, texts: Sequence[str], videos: Sequence[Video | VideoFeatures], *, language: str | None = None
    ) -> np.ndarray:
        """float32 [N, V]: the score of every text with every video, as in evaluation.

        Videos that are needed again are better encoded once, by `encode_video`.
        """
        if isinstance(texts, str) or isinstance(videos, str | os.PathLike):
            raise QueryError("similarity: give a list of texts and a list of videos")
        found = [video if isinstance(video, VideoFeatures) else self.encode_video(video) for video in videos]
        if not found or not texts:
            return np.zeros((len(texts), len(found)), np.float32)
        most = max(len(video.frames) for video in found)
        frames = np.zeros((len(found), most, self.width), np.float32)
        mask = np.zeros((len(found), most), bool)
        for number, video in enumerate(found):
            count = len(video.frames)
            frames[number, :count] = video.frames * video.lengths[:, None]
            mask[number, :count] = True
        stacked = {"video": np.stack([video.video for video in found]), "frames": frames, "frame_mask": mask}
        rows = {name: torch.from_numpy(array).to(self.device) for name, array in stacked.items()}
        text = self._text_rows([check_text(text, "text") for text in texts], language)
        result: np.ndarray = self.head(text, rows).float().cpu().numpy()
        return result

    # Sharing

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: Any) -> str | None:
        """Save weights (safetensors, published names), settings and a model card (README.md) in a folder.

        An existing README.md stays. `options` are those of `ModelHubMixin.save_pretrained`. Raises
        `UserError` for a published model, which has a name, and if a file cannot be written.
        """
        if kind_of(self.identity) == ZERO_SHOT:
            raise UserError(f"{self.identity['path']}: a published model as it is; load it by this name")
        card = {"name": os.fspath(save_directory), **(options.pop("model_card_kwargs", None) or {})}
        with file_errors(os.fspath(save_directory), "cannot be written"):
            return super().save_pretrained(Path(save_directory), model_card_kwargs=card, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Save the model to OWNER/NAME of the hub; returns the address of the commit.

        `options` are those of `ModelHubMixin.push_to_hub`, such as `private=True`. Raises `UserError` if the
        hub refuses it or does not answer.
        """
        card = {"name": repo_id, **(options.pop("model_card_kwargs", None) or {})}
        try:
            return super().push_to_hub(repo_id, model_card_kwargs=card, **options)
        except HfHubHTTPError as error:
            code = getattr(error.response, "status_code", None)
            hint = "; log in with `hf auth login`" if code in (401, 403) else ""
            raise UserError(f"{repo_id}: the hub refused it ({first_line(error)}){hint}") from error
        except (UserError, ValueError):
            raise
        except Exception as error:  # the client raises many undocumented kinds
            raise UserError(f"{repo_id}: not uploaded ({first_line(error)}); run it again") from error

    def _save_pretrained(self, save_directory: Path) -> None:
        save_state(self.model.state_dict(), save_directory / WEIGHTS)
        if self.figures is not None:
            write_json(save_directory / REPORT, self.figures)
        write_settings(self.config, save_directory)  # last: with it the folder is a model

    def generate_model_card(self, *_: Any, **fields: Any) -> ModelCard:
        """The README.md: what the model is, how to use it, and the figures of its evaluation."""
        fields = {"width": self.width, **fields}
        return model_card(self.config, self.figures, self._hub_mixin_info.model_card_data, **fields)


def load_model(model: str | os.PathLike[str], **options: Any) -> VideoTextModel:
    """A model, its preprocessing and its tokenizer, ready for use.

    `model`: a checkpoint file, an output folder of a training, a folder that `save_pretrained` made,
    OWNER/NAME of the hub, or a published model by its open_clip name. `options` are those of
    `VideoTextModel.from_pretrained`, such as `device="cpu"`. Raises `UserError` of one line.
    """
    return VideoTextModel.from_pretrained(model, **options)


def _picture(frame: Any) -> np.ndarray:
    if getattr(frame, "dtype", None) != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise QueryError("video: give a file, or its frames as uint8 [n, height, width, 3], red first")
    picture: np.ndarray = frame
    return picture
