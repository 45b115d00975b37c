"""One evaluation of a run: compute the metrics, log them, write the result line and the requested files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from common.languages import BILINGUAL
from engine.config import Config
from engine.data import EvaluationData, Queries
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
    *("wti_layers", "xpool_heads", "head_padding"),
)


def feature_settings(config: Config) -> dict[str, Any]:
    """`FEATURE_SETTINGS` of a run by name."""
    return {name: getattr(config, name) for name in FEATURE_SETTINGS} | {"use_temp": bool(config.use_temp)}


@dataclass(frozen=True)
class QueryResults:
    """The metrics of the captions in one language, and the scores that they come from."""

    queries: Queries
    metrics: SplitMetrics
    tiles: Tiles


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: `result` is its line in metrics.jsonl; a report needs the rest.

    `values` are the metrics in `result`: of a split in two languages the means of both, and those of each
    with its language before their names.
    """

    result: dict[str, Any]
    values: dict[str, float]
    by_language: tuple[QueryResults, ...]
    data: EvaluationData


def build_evaluator(
    config: Config, world: World, data: EvaluationData, log: RunLog, queries: Queries | None = None
) -> Evaluator:
    """The evaluator of `queries` of one split, the first ones if None. It reads no data yet."""
    queries = queries or data.queries[0]
    return Evaluator(
        videos=data.videos,
        captions=queries.captions,
        video_of_caption=queries.examples.video_of_caption,
        world=world,
        log=log,
        max_frames=config.max_frames,
        logit_scale=MAX_LOGIT_SCALE,
        precision=config.precision,
        captions_text=queries.examples.captions,
        video_ids=queries.examples.video_ids,
    )


def evaluate(
    config: Config,
    world: World,
    model: DualEncoder,
    data: EvaluationData,
    log: RunLog,
    *,
    epoch: int | None,
    checkpoint: str | None,
    split: str = "test",
    banks: Mapping[str, DataLoader] | None = None,
    final: bool = True,
    chosen: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Evaluate, log the result and append it to metrics.jsonl. Collective.

    Every language of `data` is evaluated by itself, with the same features of the videos. `split` names the
    split of `data`. Only a `final` evaluation post-processes scores (`banks` comes from
    `query_bank.build_banks`) and writes features and similarity. `chosen` is added to the result: how the
    evaluated epoch was chosen.
    """
    about: dict[str, Any] = {
        "epoch": epoch,
        "job": config.job,
        "dataset": data.dataset,
        "split": split,
        "language": config.language,
        "checkpoint": checkpoint,
        **(chosen or {}),
    }
    if final and world.is_main:
        is_file = checkpoint is not None and Path(checkpoint).is_file()
        about["checkpoint_sha256"] = file_digest(Path(str(checkpoint))) if is_file else None
    head = build_evaluator(config, world, data, log).head_of(model)
    features: Features | None = None
    results: list[QueryResults] = []
    for queries in data.queries:
        evaluator = build_evaluator(config, world, data, log, queries)
        features = evaluator.encode(model, videos_of=features)
        bank = None
        if final and config.qb_norm:
            assert banks is not None
            bank = evaluator.encode_texts(model, banks[queries.language], "encoding the querybank")
        metrics = evaluator.compute_metrics(
            features,
            head,
            resamples=config.bootstrap,
            dsl_temperature=config.dsl_temperature if final and config.dsl else None,
            bank=bank,
            qb_beta=config.qb_beta,
        )
        results.append(QueryResults(queries, metrics, evaluator.tiles(features, head)))
        title = " ".join([data.dataset, *([queries.language] if len(data.queries) > 1 else [])])
        _log_metrics(metrics, title if split == "test" else f"{title} {split}", log)
        if final and world.is_main:
            protocol = protocol_of(queries.examples.video_of_caption, data.protocol)
            features_about = about | {"language": queries.language, "protocol": protocol["name"]}
            _write_files(config, features, head, bank, evaluator, queries, features_about, log)
    counts = data.counts()
    if counts.get("comparable") is False:
        log.warning(f"evaluated {counts['videos']} of {counts['videos_of_benchmark']} videos: not comparable")
    values, extra = combine(results)
    if len(results) > 1:
        captions = {item.queries.language: item.queries.examples.num_captions for item in results}
        counts["captions_by_language"] = captions
        _log_values(f"{data.dataset} mean of both languages", values, log)
    protocol = protocol_of(results[0].queries.examples.video_of_caption, data.protocol)
    result = {**about, **counts, "protocol": protocol, **values, **extra}
    log.result(result)
    prefix = "" if split == "test" else f"{split}/"
    scalars = {prefix + name: value for name, value in values.items()}
    log.scalars(scalars, step=0 if epoch is None else epoch)
    return Evaluation(result, values, tuple(results), data)


def combine(results: Sequence[QueryResults]) -> tuple[dict[str, float], dict[str, Any]]:
    """(metrics, `intervals` and `post_processing` where there are some) of one language or of several.

    Of several: the mean of every metric, then each language's own metrics as `english/t2v/R@1` and so on.
    """
    parts = {item.queries.language: item.metrics for item in results}
    named = [(f"{language}/" if len(parts) > 1 else "", metrics) for language, metrics in parts.items()]
    values = {
        name: float(np.mean([metrics.values[name] for metrics in parts.values()]))
        for name in results[0].metrics.values
        if len(parts) > 1 and all(name in metrics.values for metrics in parts.values())
    }
    values |= {prefix + name: value for prefix, metrics in named for name, value in metrics.values.items()}
    extra: dict[str, Any] = {
        "intervals": {p + name: ends for p, metrics in named for name, ends in metrics.intervals.items()},
        "post_processing": {
            p + name: sentence for p, metrics in named for name, sentence in metrics.post_processing.items()
        },
    }
    return values, {name: value for name, value in extra.items() if value}


def _log_metrics(metrics: SplitMetrics, title: str, log: RunLog) -> None:
    _log_values(title, metrics.values, log)
    for name in ("t2v/R@1", "v2t/R@1"):
        if name in metrics.intervals:
            log.info(f"{title} {name} 95% interval {{:.1f}} to {{:.1f}}".format(*metrics.intervals[name]))
    for name, sentence in metrics.post_processing.items():
        prefix = f"{name}/"
        values = {key.removeprefix(prefix): v for key, v in metrics.values.items() if key.startswith(prefix)}
        _log_values(f"{title} {name}", values, log)
        log.info(f"{name}: {sentence}")


def _log_values(title: str, values: Mapping[str, float], log: RunLog) -> None:
    for line in format_metrics(values):
        log.info(f"{title} {line}")


def _write_files(
    config: Config,
    features: Features,
    head: SimilarityHead,
    bank: Mapping[str, torch.Tensor] | None,
    evaluator: Evaluator,
    queries: Queries,
    about: dict[str, Any],
    log: RunLog,
) -> None:
    """Write what --save_features and --save_similarity ask for; of two languages, each by itself."""
    several = config.language == BILINGUAL
    examples = queries.examples
    if config.save_features:
        folder = Path(config.save_features).expanduser()
        folder = folder / queries.language if several else folder
        about = about | {"settings": feature_settings(config)}
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
        name = f"similarity.{queries.language}.npy" if several else "similarity.npy"
        path = Path(config.output_dir) / name
        notes = SimilarityNotes(evaluator.logit_scale, examples.video_of_caption)
        save_similarity(path, evaluator.tiles(features, head), notes)
        log.info(f"similarity, captions x videos: {path}")
