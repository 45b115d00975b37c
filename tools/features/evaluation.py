"""The evaluation behind evaluate_features.py: from checked flags to metrics and a printed table."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from engine.evaluation.compute_metrics import Bank, SplitMetrics, compute_metrics
from engine.evaluation.feature_files import (
    FeatureSet,
    SimilarityNotes,
    file_digest,
    in_one_type,
    load_features,
    load_similarity_notes,
)
from engine.evaluation.features import Features, check_features, shapes_match
from engine.evaluation.metrics import PROTOCOLS, format_metrics, protocol_of
from engine.evaluation.similarity import MatrixTiles, ScoreTiles, Tiles
from modules.heads.head import HeadOptions, SimilarityHead
from modules.heads.registry import HEADS, build_head
from tools.features.inputs import as_tensor, find_videos, read_array, read_features, read_ids

LOGIT_SCALE = 100.0  # of features; ranks do not depend on it
MOST_COSINES = 2.0  # the largest score without a factor: text and video, and the mean of the best frames
_ROUNDING = 1e-3


def evaluate(args: argparse.Namespace) -> tuple[dict[str, Any], SplitMetrics, list[str]]:
    """(content of --json, the metrics, remarks on unusual features)."""
    # Each list is read once: it may be a pipe.
    lists = {flag: _ids(args, flag) for flag in ("text_ids", "video_ids", "video_of_text")}
    if args.similarity:
        matrix = read_array(args.similarity, axes=2, flag="--similarity")
        notes = load_similarity_notes(args.similarity, shape=matrix.shape)
        if notes is not None and not any(lists.values()):
            video_of_text = notes.video_of_caption
        else:
            video_of_text = find_videos(texts=matrix.shape[0], videos=matrix.shape[1], **lists)
        tiles: Tiles = MatrixTiles(matrix)
        scale, remarks = _scale(args, matrix, notes)
        bank, about = None, {}
    else:
        saved, given_bank = _in_one_type(_feature_set(args, lists), _given_bank(args))
        video_of_text, about = saved.video_of_caption, dict(saved.about)
        remarks = check_features(
            saved.features, video_of_text, captions=saved.captions, video_ids=saved.video_ids
        )
        about["top_frames"] = args.top_frames or about.get("settings", {}).get("top_frames", 3)
        if not isinstance(about["top_frames"], int) or str(about.get("protocol", "auto")) not in PROTOCOLS:
            raise UserError(f"{args.folder}: wrong top_frames or protocol; write the features again")
        head = _head(saved, about["top_frames"], args.folder)
        tiles, scale = ScoreTiles(saved.features, head, logit_scale=LOGIT_SCALE), LOGIT_SCALE
        bank = _bank(args, saved, given_bank, head) if args.qb_norm else None
    metrics = compute_metrics(
        tiles,
        video_of_text,
        logit_scale=scale,
        resamples=args.bootstrap,
        dsl_temperature=args.dsl_temperature if args.dsl else None,
        bank=bank,
    )
    result = {
        **about,
        "captions": tiles.num_captions,
        "videos": tiles.num_videos,
        "protocol": protocol_of(video_of_text, str(about.get("protocol", "auto"))),
        "post_processing": metrics.post_processing,
        **metrics.values,
        "intervals": metrics.intervals,
    }
    return result, metrics, remarks


def _scale(
    args: argparse.Namespace, matrix: np.ndarray, notes: SimilarityNotes | None
) -> tuple[float, list[str]]:
    """(the factor on cosines in the scores, a remark if it is guessed). Only dual softmax depends on it."""
    if args.similarity_scale:
        return args.similarity_scale, []
    if notes is not None:
        return notes.scale, []
    if not args.dsl:
        return 1.0, []
    largest = 0.0
    for row in matrix:  # one at a time: the matrix may be larger than memory
        values = np.abs(row.astype(np.float64))
        largest = max(largest, float(values.max(initial=0.0, where=np.isfinite(values))))
    for scale in (1.0, LOGIT_SCALE):
        if largest <= MOST_COSINES * scale * (1 + _ROUNDING):
            what = "cosines" if scale == 1.0 else f"{scale:g} times cosines"
            return scale, [
                f"--similarity {args.similarity}: the largest score is {largest:.3g}, so --dsl takes the "
                f"scores for {what}; --similarity_scale gives another factor"
            ]
    raise UserError(
        f"--similarity {args.similarity}: scores up to {largest:.3g} are neither cosines nor 100 times "
        "cosines; give --similarity_scale, the factor on the cosines in them"
    )


def _feature_set(args: argparse.Namespace, lists: Mapping[str, list[str] | None]) -> FeatureSet:
    if args.folder:
        digest = file_digest(args.checkpoint) if args.checkpoint else None
        return load_features(args.folder, dataset=args.dataset, split=args.split, checkpoint_sha256=digest)
    features = read_features(args.text, args.video, args.frames)
    texts, videos = len(features.text), len(features.video)
    return FeatureSet(
        features=features,
        video_of_caption=find_videos(texts=texts, videos=videos, **lists),
        video_ids=lists["video_ids"] or [str(i) for i in range(videos)],
        captions=lists["text_ids"] or [str(i) for i in range(texts)],
    )


def _ids(args: argparse.Namespace, flag: str) -> list[str] | None:
    path = getattr(args, flag)
    return read_ids(path, flag=f"--{flag}") if path else None


def _given_bank(args: argparse.Namespace) -> dict[str, Tensor]:
    """The arrays of --bank, --bank_video and --bank_frames that are given and used."""
    paths = {flag: getattr(args, flag) for flag in ("bank", "bank_video", "bank_frames")}
    return {
        flag: as_tensor(read_array(path, axes=3 if flag == "bank_frames" else 2, flag=f"--{flag}"))
        for flag, path in paths.items()
        if path and args.qb_norm
    }


def _head(saved: FeatureSet, top_frames: int, folder: object) -> SimilarityHead:
    """The head that made the features, with its weights; HMMC's for arrays.

    Raises `UserError` if `folder` does not hold what this head reads, or other weights.
    """
    features = saved.features
    settings = {**saved.about.get("settings", {}), "top_frames": top_frames}
    options = HeadOptions.of(settings | {"use_frame_fea": features.frames is not None})
    if options.head not in HEADS:
        raise UserError(f"{folder}: features for the head {options.head!r}; known are {', '.join(HEADS)}")
    head = build_head(options, features.text.shape[1])
    missing = [name for name in ("words", "frames") if head.reads(name) and getattr(features, name) is None]
    try:
        head.load_state_dict(dict(saved.head_state))
    except RuntimeError:
        missing.append("weights")
    if missing:
        raise UserError(
            f"{folder}: lacks {' and '.join(missing)} of the head {options.head}; write the features again"
        )
    return head.eval().requires_grad_(False)


def _in_one_type(saved: FeatureSet, bank: dict[str, Tensor]) -> tuple[FeatureSet, dict[str, Tensor]]:
    """Both in the most precise type among all their arrays."""
    features, held = saved.features, saved.bank or {}
    names = ("text", "words", "video", "frames")
    arrays = {name: getattr(features, name) for name in names}
    arrays |= {f"saved {name}": held[name] for name in ("text", "words") if name in held}
    tensors = in_one_type({name: array for name, array in {**arrays, **bank}.items() if array is not None})
    changed: dict[str, Any] = {name: tensors.get(name) for name in names}
    features = replace(features, **changed)
    held = {name: tensors.get(f"saved {name}", array) for name, array in held.items()}
    return replace(saved, features=features, bank=held or None), {name: tensors[name] for name in bank}


def _bank(
    args: argparse.Namespace, saved: FeatureSet, given: Mapping[str, Tensor], head: SimilarityHead
) -> Bank:
    """The querybank of --bank, else the one saved with the features."""
    texts = {"text": given["bank"]} if "bank" in given else saved.bank
    if texts is None:
        raise UserError("--qb_norm: needs --bank, the features of training texts")
    width = saved.features.text.shape[1]
    if texts["text"].shape[1] != width or not len(texts["text"]):
        raise UserError(f"--bank {tuple(texts['text'].shape)}: must hold texts {width} wide")
    if not all(torch.isfinite(array).all() for array in texts.values()):
        raise UserError("--bank: holds features that are not finite")
    if head.reads("words") and "words" not in texts:
        raise UserError(f"--bank: the head {head.options.head} needs words; leave it out, or --qb_norm")
    captions = ScoreTiles(_with_texts(saved.features, texts), head, logit_scale=LOGIT_SCALE)
    return Bank(captions, _bank_videos(saved, given, head), args.qb_beta)


def _with_texts(features: Features, texts: Mapping[str, Tensor]) -> Features:
    changed: dict[str, Any] = {"words": None, "word_mask": None, **texts}
    return replace(features, **changed)


def _bank_videos(saved: FeatureSet, given: Mapping[str, Tensor], head: SimilarityHead) -> ScoreTiles | None:
    if "bank_video" not in given:
        return None
    video, frames = given["bank_video"], given.get("bank_frames")
    alike = (frames is None) == (saved.features.frames is None)
    if not alike or not shapes_match(saved.features.text, video, frames, None):
        raise UserError("--bank_video, --bank_frames: must be of the kind of --video and --frames")
    if not all(array.numel() for array in (video, frames) if array is not None):
        raise UserError("--bank_video, --bank_frames: hold no features")
    if not all(torch.isfinite(array).all() for array in (video, frames) if array is not None):
        raise UserError("--bank_video, --bank_frames: hold features that are not finite")
    features = replace(saved.features, video=video, frames=frames, frame_mask=None)
    return ScoreTiles(features, head, logit_scale=LOGIT_SCALE)


def table(result: dict[str, Any], metrics: SplitMetrics) -> list[str]:
    """The printed lines: counts, both directions, intervals of R@1, post-processed metrics."""
    lines = [f"{result['captions']:,} captions, {result['videos']:,} videos; {result['protocol']['queries']}"]
    lines += format_metrics(metrics.values)
    for name in ("t2v/R@1", "v2t/R@1"):
        if name in metrics.intervals:
            low, high = metrics.intervals[name]
            lines.append(f"{name}: 95% {low:.1f} to {high:.1f}")
    for name, sentence in metrics.post_processing.items():
        shown = {key[len(name) + 1 :]: v for key, v in metrics.values.items() if key.startswith(f"{name}/")}
        lines += [f"{name} {line}" for line in format_metrics(shown)]
        lines.append(f"  ({sentence})")
    return lines
