"""Writes OUTPUT_DIR/report of a run after the result, so that on a full disk only the report is lost."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from engine.config import Config
from engine.distributed.world import World
from engine.evaluation.evaluate import Evaluation
from engine.logs.run_log import RunLog


def report_evaluation(config: Config, evaluation: Evaluation, world: World, log: RunLog) -> None:
    """Write the report that `--report` asks for; rank 0 does it."""
    if not (config.report and world.is_main):
        return
    # Imported here, because matplotlib takes a second and many runs need no report.
    from engine.report.report import write_report

    data = evaluation.data
    page = write_report(
        Path(config.output_dir) / "report",
        result={
            **evaluation.result,
            "settings": dataclasses.asdict(config),
            "missing": list(data.missing.ids),
        },
        rankings=evaluation.metrics.rankings,
        examples=data.examples,
        tiles=evaluation.tiles,
        store=data.store,
    )
    log.info(f"report: {page}")
