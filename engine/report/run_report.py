"""Writes OUTPUT_DIR/report of a run after the result, so that on a full disk only the report is lost."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from engine.config import Config
from engine.distributed.world import World
from engine.evaluation.evaluate import Evaluation, QueryResults, combine
from engine.logs.run_log import RunLog

_OF_BOTH = ("RSum", "intervals", "post_processing", "captions_by_language")


def report_evaluation(config: Config, evaluation: Evaluation, world: World, log: RunLog) -> None:
    """Write the report that `--report` asks for; rank 0 does it."""
    if not (config.report and world.is_main):
        return
    # Imported here, because matplotlib takes a second and many runs need no report.
    from engine.report.report import Part, write_bilingual_report, write_report

    result = {
        **evaluation.result,
        "settings": dataclasses.asdict(config),
        "missing": list(evaluation.data.missing.ids),
    }
    folder, store = Path(config.output_dir) / "report", evaluation.data.store
    parts = {
        item.queries.language: Part(
            _of_language(result, item), item.metrics.rankings, item.queries.examples, item.tiles
        )
        for item in evaluation.by_language
    }
    if len(parts) > 1:
        page = write_bilingual_report(folder, result=result, parts=parts, store=store)
    else:
        (part,) = parts.values()
        page = write_report(
            folder,
            result=result,
            rankings=part.rankings,
            examples=part.examples,
            tiles=part.tiles,
            store=store,
        )
    log.info(f"report: {page}")


def _of_language(result: dict[str, Any], item: QueryResults) -> dict[str, Any]:
    """What `result` would be if only this language had been evaluated."""
    values, extra = combine([item])
    about = {name: value for name, value in result.items() if "/" not in name and name not in _OF_BOTH}
    captions = {"language": item.queries.language, "captions": item.queries.examples.num_captions}
    return {**about, **captions, **values, **extra}
