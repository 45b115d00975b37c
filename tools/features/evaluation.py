"""The evaluation behind evaluate_features.py: from checked flags to metrics and a printed table."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from common.errors import UserError
from engine.evaluation.compute_metrics import Bank, SplitMetrics, compute_metrics
from engine.evaluation.feature_files import FeatureSet, file_digest, load_features
from engine.evaluation.features import Features, check_features, shapes_match
from engine.evaluation.metrics import PROTOCOLS, format_metrics, protocol_of
from engine.evaluation.similarity import MatrixTiles, ScoreTiles, Tiles
from tools.features.inputs import as_tensor, find_videos, read_array, read_features, read_ids

LOGIT_SCALE = 100.0  # of features; ranks do not depend on it


def evaluate(args: argparse.Namespace) -> tuple[dict[str, Any], SplitMetrics, list[str]]:
    """(content of --json, the metrics, remarks on unusual features)."""
    if args.similarity:
        matrix = read_array(args.similarity, axes=2, flag="--similarity")
        video_of_text = _video_of_text(args, *matrix.shape)
        tiles: Tiles = MatrixTiles(np.asarray(matrix))
        scale, bank, about, remarks = 1.0, None, {}, list[str]()
    else:
        saved = _feature_set(args)
        video_of_text, about = saved.video_of_caption, dict(saved.about)
        remarks = check_features(
            saved.features, video_of_text, captions=saved.captions, video_ids=saved.video_ids
        )
        about["top_frames"] = args.top_frames or about.get("settings", {}).get("top_frames", 3)
        if not isinstance(about["top_frames"], int) or str(about.get("protocol", "auto")) not in PROTOCOLS:
            raise UserError(f"{args.folder}: wrong top_frames or protocol; write the features again")
        options: dict[str, Any] = {"top_frames": about["top_frames"], "logit_scale": LOGIT_SCALE}
        tiles, scale = ScoreTiles(saved.features, **options), LOGIT_SCALE
        bank = _bank(args, saved, options) if args.qb_norm else None
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


def _feature_set(args: argparse.Namespace) -> FeatureSet:
    if args.folder:
        digest = file_digest(args.checkpoint) if args.checkpoint else None
        return load_features(args.folder, dataset=args.dataset, split=args.split, checkpoint_sha256=digest)
    features = read_features(args.text, args.video, args.frames)
    texts, videos = len(features.text), len(features.video)
    return FeatureSet(
        features=features,
        video_of_caption=_video_of_text(args, texts, videos),
        video_ids=_ids(args, "video_ids") or [str(i) for i in range(videos)],
        captions=_ids(args, "text_ids") or [str(i) for i in range(texts)],
    )


def _ids(args: argparse.Namespace, flag: str) -> list[str] | None:
    path = getattr(args, flag)
    return read_ids(path, flag=f"--{flag}") if path else None


def _video_of_text(args: argparse.Namespace, texts: int, videos: int) -> np.ndarray:
    lists = {flag: _ids(args, flag) for flag in ("text_ids", "video_ids", "video_of_text")}
    return find_videos(texts=texts, videos=videos, **lists)


def _bank(args: argparse.Namespace, saved: FeatureSet, options: dict[str, Any]) -> Bank:
    """The querybank of --bank, else the one saved with the features."""
    texts = saved.bank
    if args.bank:
        texts = as_tensor(read_array(args.bank, axes=2, flag="--bank"))
    if texts is None:
        raise UserError("--qb_norm: needs --bank, the features of training texts")
    width = saved.features.text.shape[1]
    if texts.shape[1] != width or not len(texts):
        raise UserError(f"--bank {tuple(texts.shape)}: must hold texts {width} wide")
    if not torch.isfinite(texts).all():
        raise UserError("--bank: holds features that are not finite")
    texts = texts.to(saved.features.text.dtype)
    captions = ScoreTiles(replace(saved.features, text=texts), **options)
    return Bank(captions, _bank_videos(args, saved, options), args.qb_beta)


def _bank_videos(args: argparse.Namespace, saved: FeatureSet, options: dict[str, Any]) -> ScoreTiles | None:
    if not args.bank_video:
        return None
    kind = saved.features.text.dtype
    video = as_tensor(read_array(args.bank_video, axes=2, flag="--bank_video")).to(kind)
    frames = None
    if args.bank_frames:
        frames = as_tensor(read_array(args.bank_frames, axes=3, flag="--bank_frames")).to(kind)
    alike = (frames is None) == (saved.features.frames is None)
    if not alike or not shapes_match(saved.features.text, video, frames, None):
        raise UserError("--bank_video, --bank_frames: must be of the kind of --video and --frames")
    if not all(array.numel() for array in (video, frames) if array is not None):
        raise UserError("--bank_video, --bank_frames: hold no features")
    if not all(torch.isfinite(array).all() for array in (video, frames) if array is not None):
        raise UserError("--bank_video, --bank_frames: hold features that are not finite")
    return ScoreTiles(Features(saved.features.text, video, frames), **options)


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
