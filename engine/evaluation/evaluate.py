"""One evaluation of a run: compute the metrics, log them, write the result line and the requested files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from engine.config import Config
from engine.data import EvaluationData
from engine.distributed.world import World
from engine.evaluation.compute_metrics import SplitMetrics
from engine.evaluation.encode import Evaluator
from engine.evaluation.feature_files import (
    FeatureSet,
    SimilarityNotes,
    file_digest,
    save_features,
    save_similarity,
)
from engine.evaluation.features import Features
from engine.evaluation.metrics import format_metrics, protocol_of
from engine.evaluation.similarity import Tiles
from engine.logs.run_log import RunLog
from modules.backbones.clip_towers import MAX_LOGIT_SCALE
from modules.dual_encoder import DualEncoder
from modules.heads.head import SimilarityHead

# Settings that are saved with features: the features, or their use, depend on them.
FEATURE_SETTINGS = (
    *("clip_model", "pretrained_text", "use_temp", "use_frame_fea", "max_frames", "max_words"),
    *("frame_sample_len", "top_frames", "legacy_special_tokens", "precision", "head"),
)


def feature_settings(config: Config) -> dict[str, Any]:
    """`FEATURE_SETTINGS` of a run by name."""
    return {name: getattr(config, name) for name in FEATURE_SETTINGS} | {"use_temp": bool(config.use_temp)}


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: `result` is its line in metrics.jsonl; a report needs the rest."""

    result: dict[str, Any]
    metrics: SplitMetrics
    tiles: Tiles
    data: EvaluationData


def build_evaluator(config: Config, world: World, data: EvaluationData, log: RunLog) -> Evaluator:
    """The evaluator of one split. It reads no data yet."""
    return Evaluator(
        videos=data.videos,
        captions=data.captions,
        video_of_caption=data.examples.video_of_caption,
        world=world,
        log=log,
        max_frames=config.max_frames,
        logit_scale=MAX_LOGIT_SCALE,
        precision=config.precision,
        captions_text=data.examples.captions,
        video_ids=data.examples.video_ids,
    )


def evaluate(
    config: Config,
    model: DualEncoder,
    evaluator: Evaluator,
    data: EvaluationData,
    log: RunLog,
    *,
    epoch: int | None,
    checkpoint: str | None,
    split: str = "test",
    bank: DataLoader | None = None,
    final: bool = True,
    chosen: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Evaluate, log the result and append it to metrics.jsonl. Collective.

    `split` names the split of `data`. Only a `final` evaluation post-processes scores (`bank` comes from
    `query_bank.build_bank`) and writes features and similarity. `chosen` is added to the result: how the
    evaluated epoch was chosen.
    """
    features, head = evaluator.encode(model), evaluator.head_of(model)
    bank_texts = None
    if final and config.qb_norm:
        assert bank is not None
        bank_texts = evaluator.encode_texts(model, bank, "encoding the querybank")
    metrics = evaluator.compute_metrics(
        features,
        head,
        resamples=config.bootstrap,
        dsl_temperature=config.dsl_temperature if final and config.dsl else None,
        bank=bank_texts,
        qb_beta=config.qb_beta,
    )
    counts = data.counts()
    _log_metrics(metrics, data.dataset if split == "test" else f"{data.dataset} {split}", counts, log)
    protocol = protocol_of(data.examples.video_of_caption, config.protocol)
    about: dict[str, Any] = {
        "epoch": epoch,
        "job": config.job,
        "dataset": data.dataset,
        "split": split,
        "language": config.language,
        "checkpoint": checkpoint,
        **(chosen or {}),
    }
    if final and evaluator.world.is_main:
        is_file = checkpoint is not None and Path(checkpoint).is_file()
        about["checkpoint_sha256"] = file_digest(Path(str(checkpoint))) if is_file else None
        features_about = about | {"protocol": protocol["name"]}
        _write_files(config, features, head, bank_texts, evaluator, data, features_about, log)
    extra = {"intervals": metrics.intervals, "post_processing": metrics.post_processing}
    not_empty = {name: value for name, value in extra.items() if value}
    result = {**about, **counts, "protocol": protocol, **metrics.values, **not_empty}
    log.result(result)
    prefix = "" if split == "test" else f"{split}/"
    scalars = {prefix + name: value for name, value in metrics.values.items()}
    log.scalars(scalars, step=0 if epoch is None else epoch)
    return Evaluation(result, metrics, evaluator.tiles(features, head), data)


def _log_metrics(metrics: SplitMetrics, dataset: str, counts: dict[str, Any], log: RunLog) -> None:
    for line in format_metrics(metrics.values):
        log.info(f"{dataset} {line}")
    for name in ("t2v/R@1", "v2t/R@1"):
        if name in metrics.intervals:
            log.info(f"{dataset} {name} 95% interval {{:.1f}} to {{:.1f}}".format(*metrics.intervals[name]))
    for name, sentence in metrics.post_processing.items():
        prefix = f"{name}/"
        values = {key.removeprefix(prefix): v for key, v in metrics.values.items() if key.startswith(prefix)}
        for line in format_metrics(values):
            log.info(f"{dataset} {name} {line}")
        log.info(f"{name}: {sentence}")
    if counts.get("comparable") is False:
        log.warning(f"evaluated {counts['videos']} of {counts['videos_of_benchmark']} videos: not comparable")


def _write_files(
    config: Config,
    features: Features,
    head: SimilarityHead,
    bank: Mapping[str, torch.Tensor] | None,
    evaluator: Evaluator,
    data: EvaluationData,
    about: dict[str, Any],
    log: RunLog,
) -> None:
    """Write what --save_features and --save_similarity ask for."""
    if config.save_features:
        folder = Path(config.save_features).expanduser()
        about = about | {"settings": feature_settings(config)}
        examples = data.examples
        feature_set = FeatureSet(
            features=features,
            video_of_caption=examples.video_of_caption,
            video_ids=list(examples.video_ids),
            captions=list(examples.captions),
            about=about,
            bank=bank,
            head_state=head.state_dict(),
        )
        save_features(folder, feature_set)
        log.info(
            f"features of {examples.num_videos:,} videos and {examples.num_captions:,} captions: {folder}"
        )
    if config.save_similarity:
        path = Path(config.output_dir) / "similarity.npy"
        notes = SimilarityNotes(evaluator.logit_scale, data.examples.video_of_caption)
        save_similarity(path, evaluator.tiles(features, head), notes)
        log.info(f"similarity, captions x videos: {path}")
