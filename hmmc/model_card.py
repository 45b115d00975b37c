"""The model card: README.md of a saved model, with the figures of its evaluation."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, StrictUndefined

from common.languages import languages_of
from engine.config import Config
from hmmc.saved_folder import Figures

_TEMPLATE = Path(__file__).with_name("model_card.md")
_CODES = {"english": "en", "chinese": "zh"}
_DIRECTIONS = {"t2v": "text to video", "v2t": "video to text"}
_METRICS = ("R@1", "R@5", "R@10", "MedianR", "MeanR")
_PAPER = "https://doi.org/10.1109/TIP.2023.3275071"
_CHOSEN = {"test": "the epoch was chosen on this test list", "last": "the last epoch"}


def model_card(
    config: Config,
    figures: Figures | None,
    data: ModelCardData,
    *,
    name: str = "OWNER/NAME",
    code_url: str | None = None,
    width: int | str = "D",
    **fields: Any,
) -> ModelCard:
    """The card. `fields` go into its metadata, such as `license="apache-2.0"` or `datasets=["..."]`."""
    data = copy.deepcopy(data)
    languages = languages_of(config.language)
    data.language = [_CODES[language] for language in languages]
    results = [result for report in figures or () for result in _results(report)]
    if results:
        data.model_name, data.eval_results = name.rpartition("/")[2], results
    for field, value in fields.items():
        data[field] = value
    environment = Environment(trim_blocks=False, undefined=StrictUndefined, keep_trailing_newline=True)
    text = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        card_data=data.to_yaml(),
        title=name.rpartition("/")[2] if name != "OWNER/NAME" else "Text-video retrieval",
        name=name,
        width=width,
        code_url=code_url,
        paper_url=_PAPER,
        languages=[language.capitalize() for language in languages],
        config={"clip_model_name": Path(config.clip_model).name, "temporal_layers": config.temporal_layers},
        temporal=config.use_temp,
        settings=_settings(config),
        figures=[_section(report) for report in figures or ()],
    )
    return ModelCard(text)


def _settings(config: Config) -> list[tuple[str, str]]:
    return [
        ("frames of a clip", str(config.max_frames)),
        ("temporal transformer", f"{config.temporal_layers} layers" if config.use_temp else "none"),
        ("similarity", f"`--head {config.head}`"),
        ("frames that count beside the video", str(config.top_frames) if config.use_frame_fea else "none"),
    ]


def _section(report: Mapping[str, Any]) -> dict[str, Any]:
    """Title, rows and remark of one report."""
    rows = [
        [direction, *(_figure(report.get(f"{way}/{metric}")) for metric in _METRICS)]
        for way, direction in _DIRECTIONS.items()
        if f"{way}/R@1" in report
    ]
    title = f"**{report['dataset']}, {report['split']} split, {report['language']}**: "
    interval = report.get("intervals", {}).get("t2v/R@1")
    remarks = [
        f"95 % interval of R@1 from text to video: {interval[0]:.1f} to {interval[1]:.1f}"
        if interval
        else "",
        str(report.get("protocol", {}).get("queries", "")),
        _CHOSEN.get(str(report.get("selected_on")), ""),
    ]
    size = f"{report['videos']:,} videos, {report['captions']:,} captions."
    return {"title": title + size, "rows": rows, "remark": "; ".join(filter(None, remarks)) + "."}


def _figure(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, int | float) else "–"


def _results(report: Mapping[str, Any]) -> list[EvalResult]:
    """The figures in the form of the hub's model index."""
    return [
        EvalResult(
            task_type="text-video-retrieval",
            task_name=f"{direction} retrieval",
            dataset_type=str(report["dataset"]),
            dataset_name=f"{report['dataset']}, {report['language']}",
            dataset_split=str(report["split"]),
            metric_type="recall",
            metric_name=f"{way} {metric}",
            metric_value=round(float(report[f"{way}/{metric}"]), 2),
        )
        for way, direction in _DIRECTIONS.items()
        for metric in ("R@1", "R@5", "R@10")
        if f"{way}/{metric}" in report
    ]
