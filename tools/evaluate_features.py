"""Every retrieval figure from features on disk, ours or of any other model, in seconds.

    python tools/evaluate_features.py FOLDER                       what --save_features wrote
    python tools/evaluate_features.py --text text.npy --video video.npy [--frames frames.npy]
        [--video_ids ids.txt --video_of_text owners.txt]           texts in any order, several a video
    python tools/evaluate_features.py --similarity scores.npy ...  scores [texts, videos] of a model that is
                                                                   no product of features

Lists hold one id a line, or are JSON lists. Without them, text i belongs to video i. Similarity is the cosine
of text and video, plus, with frames, the mean cosine of the best --top_frames. See docs/EVALUATION.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

# Run as a program, only tools/ itself is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.atomic_files import write_text
from engine.evaluation.compute_metrics import Bank, SplitMetrics, compute_metrics
from engine.evaluation.feature_files import FeatureSet, file_digest, load_features
from engine.evaluation.features import Features, check_features
from engine.evaluation.metrics import format_metrics, protocol_of
from engine.evaluation.similarity import MatrixTiles, ScoreTiles, Tiles
from tools.doctor.report import say
from tools.feature_inputs import as_tensor, owners, read_array, read_features, read_ids

LOGIT_SCALE = 100.0  # of features; ranks do not depend on it


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evaluate_features.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("folder", nargs="?", type=Path, help="what --save_features wrote")
    for name, what in (
        ("text", "texts [N, D]"),
        ("video", "videos [V, D]"),
        ("frames", "frames [V, F, D]"),
        ("similarity", "scores [N, V]"),
        ("bank", "training texts [B, D], for --qb_norm"),
        ("bank_video", "training videos, for --qb_norm from video to text"),
        ("bank_frames", "their frames"),
    ):
        add(f"--{name}", type=Path, metavar="NPY", help=f".npy: {what}")
    for name, what in (
        ("text_ids", "names of the texts; without --video_of_text, the ids of their videos"),
        ("video_ids", "names of the videos"),
        ("video_of_text", "for each text the id of its video"),
    ):
        add(f"--{name}", type=Path, metavar="LIST", help=what)
    add("--checkpoint", type=Path, help="refuse features of another checkpoint than this file")
    add("--dataset", help="refuse features of another data set")
    add("--split", help="refuse features of another split")
    add("--top_frames", type=int, help="frames that count [as saved, else 3]")
    add("--dsl", action="store_true", help="dual softmax beside the plain figures")
    add("--dsl_temperature", type=float, default=100.0, help="factor on cosines [100]")
    add("--qb_norm", action="store_true", help="querybank normalisation beside the plain figures")
    add("--qb_beta", type=float, default=20.0, help="factor on cosines [20]")
    add("--bootstrap", type=int, default=1000, help="resamples of the 95%% intervals, 0: none [1000]")
    add("--json", type=Path, metavar="FILE", help="write everything to FILE")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 2 bad input."""
    arguments = build_parser().parse_args(argv)
    try:
        result, measured, remarks = evaluate(arguments)
        for remark in remarks:
            print(f"note: {remark}", file=sys.stderr)
        say(table(result, measured))
        if arguments.json:
            write_text(arguments.json, json.dumps(result, ensure_ascii=False, indent=1) + "\n")
    except (ValueError, OSError) as error:
        print(f"evaluate_features.py: error: {error}", file=sys.stderr)
        return 2
    return 0


def evaluate(arguments: argparse.Namespace) -> tuple[dict[str, Any], SplitMetrics, list[str]]:
    """(everything that goes to --json, the measures, remarks on odd features)."""
    _check_flags(arguments)
    if arguments.similarity:
        matrix = read_array(arguments.similarity, axes=2, flag="--similarity")
        owner = _owners(arguments, *matrix.shape)
        tiles: Tiles = MatrixTiles(np.asarray(matrix))
        scale, bank, about, remarks = 1.0, None, {}, list[str]()
    else:
        made = _feature_set(arguments)
        owner, about = made.video_of_caption, dict(made.about)
        remarks = check_features(made.features, owner, captions=made.captions, video_ids=made.video_ids)
        saved = about.get("settings", {}).get("top_frames", 3)
        options = {"top_frames": arguments.top_frames or saved, "logit_scale": LOGIT_SCALE}
        tiles, scale = ScoreTiles(made.features, **options), LOGIT_SCALE
        bank = _bank(arguments, made, options) if arguments.qb_norm else None
        about["top_frames"] = options["top_frames"]
    measured = compute_metrics(
        tiles,
        owner,
        logit_scale=scale,
        resamples=arguments.bootstrap,
        dsl_temperature=arguments.dsl_temperature if arguments.dsl else None,
        bank=bank,
    )
    result = {
        **about,
        "captions": tiles.num_captions,
        "videos": tiles.num_videos,
        "protocol": protocol_of(owner, str(about.get("protocol", "auto"))),
        "post_processing": measured.post_processing,
        **measured.values,
        "intervals": measured.intervals,
    }
    return result, measured, remarks


def _check_flags(arguments: argparse.Namespace) -> None:
    given = [arguments.folder, arguments.similarity, arguments.text or arguments.video]
    if sum(item is not None for item in given) != 1 or bool(arguments.text) != bool(arguments.video):
        raise ValueError("give a FOLDER, or --text and --video, or --similarity")
    if arguments.similarity and arguments.qb_norm:
        raise ValueError("--qb_norm: needs features, not --similarity")
    if arguments.top_frames is not None and arguments.top_frames < 1:
        raise ValueError(f"--top_frames {arguments.top_frames}: must be at least 1")
    if arguments.bootstrap < 0:
        raise ValueError(f"--bootstrap {arguments.bootstrap}: must be 0 or more")
    for name in ("dsl_temperature", "qb_beta"):
        if not 0 < getattr(arguments, name) < float("inf"):
            raise ValueError(f"--{name} {getattr(arguments, name)}: must be above 0")


def _feature_set(arguments: argparse.Namespace) -> FeatureSet:
    if arguments.folder:
        digest = file_digest(arguments.checkpoint) if arguments.checkpoint else None
        return load_features(
            arguments.folder,
            dataset=arguments.dataset,
            split=arguments.split,
            checkpoint_sha256=digest,
        )
    made = read_features(arguments.text, arguments.video, arguments.frames)
    owner = _owners(arguments, len(made.text), len(made.video))
    names = {flag: _ids(arguments, flag) for flag in ("text_ids", "video_ids")}
    return FeatureSet(
        features=made,
        video_of_caption=owner,
        video_ids=names["video_ids"] or [str(i) for i in range(len(made.video))],
        captions=names["text_ids"] or [str(i) for i in range(len(made.text))],
    )


def _ids(arguments: argparse.Namespace, flag: str) -> list[str] | None:
    path = getattr(arguments, flag)
    return read_ids(path, flag=f"--{flag}") if path else None


def _owners(arguments: argparse.Namespace, texts: int, videos: int) -> np.ndarray:
    lists = {flag: _ids(arguments, flag) for flag in ("text_ids", "video_ids", "video_of_text")}
    return owners(texts=texts, videos=videos, **lists)


def _bank(arguments: argparse.Namespace, made: FeatureSet, options: dict[str, Any]) -> Bank:
    """The querybank of --bank, or the one that lies with the features."""
    texts = made.bank
    if arguments.bank:
        texts = as_tensor(read_array(arguments.bank, axes=2, flag="--bank"))
    if texts is None:
        raise ValueError("--qb_norm: needs --bank, the features of training texts")
    if texts.shape[1] != made.features.text.shape[1] or not len(texts):
        raise ValueError(f"--bank {tuple(texts.shape)}: must hold texts {made.features.text.shape[1]} wide")
    if not torch.isfinite(texts).all():
        raise ValueError("--bank: holds features that are not finite")
    videos = None
    if arguments.bank_video:
        seen = read_array(arguments.bank_video, axes=2, flag="--bank_video")
        frames = arguments.bank_frames
        if (frames is None) != (made.features.frames is None) or seen.shape[1] != texts.shape[1]:
            raise ValueError("--bank_video, --bank_frames: must be of the kind of --video and --frames")
        shown = as_tensor(read_array(frames, axes=3, flag="--bank_frames")) if frames else None
        videos = ScoreTiles(Features(made.features.text, as_tensor(seen), shown), **options)
    captions = ScoreTiles(replace(made.features, text=texts), **options)
    return Bank(captions, videos, arguments.qb_beta)


def table(result: dict[str, Any], measured: SplitMetrics) -> list[str]:
    """Lines for people: counts, both directions, intervals of R@1, post-processed figures."""
    lines = [f"{result['captions']:,} captions, {result['videos']:,} videos; {result['protocol']['queries']}"]
    lines += format_metrics(measured.values)
    for name in ("t2v/R@1", "v2t/R@1"):
        if name in measured.intervals:
            low, high = measured.intervals[name]
            lines.append(f"{name}: 95% {low:.1f} to {high:.1f}")
    for name, sentence in measured.post_processing.items():
        shown = {key[len(name) + 1 :]: v for key, v in measured.values.items() if key.startswith(f"{name}/")}
        lines += [f"{name} {line}" for line in format_metrics(shown)]
        lines.append(f"  ({sentence})")
    return lines


if __name__ == "__main__":
    sys.exit(main())
