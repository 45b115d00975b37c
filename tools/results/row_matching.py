"""The row of the published tables that a run belongs to, and its differences from that row."""

from __future__ import annotations

from common.errors import UserError
from common.languages import BILINGUAL
from dataloaders.datasets.registry import DEFAULT_DATASET
from tools.results.published import Published, PublishedRow
from tools.results.run_folders import Run, Settings, settings_beside

# Settings that the evaluation must have; all others are those of the training.
_AT_EVALUATION = (
    *("clip_model", "use_temp", "use_frame_fea", "max_frames", "temporal_layers", "top_frames"),
    *("head", "head_padding", "wti_layers", "xpool_heads"),
)
_BEFORE = {"head": "hmmc"}  # what runs did whose config.json is older than the setting
_GIVE_ROW = "; use --row ROW=FOLDER to place it anyway"


class UnplacedError(UserError):
    """A run that does not clearly belong to a published row; the message says why."""


def find_row(run: Run, published: Published) -> PublishedRow:
    """The row with the job, data set, language, pre-training and published settings of the run.

    Raises `UnplacedError` if there is none or if it is not certain.
    """
    if run.evaluation["language"] == BILINGUAL:
        raise UnplacedError(f"a bilingual model; the published ones have one language{_GIVE_ROW}")
    table, pretrained = _origin(run.config)
    data = (run.evaluation["dataset"], run.evaluation["language"])
    candidates = [
        (differing_settings(run, row), row)
        for row in published.rows.values()
        if (row.table, row.pretrained, row.dataset, row.language) == (table, pretrained, *data)
    ]
    if not candidates:
        raise UnplacedError(f"no published row has {' '.join(data)}, {table}{', pre-trained' * pretrained}")
    differences, row = min(candidates, key=lambda candidate: len(candidate[0]))
    if differences:
        raise UnplacedError(f"not as published for {row.id}: {', '.join(differences)}{_GIVE_ROW}")
    return row


def check_row(run: Run, row: PublishedRow) -> None:
    """Raise `UserError` if the run has another data set or language than `row`."""
    data = (run.evaluation["dataset"], run.evaluation["language"])
    if data != (row.dataset, row.language):
        raise UserError(
            f"--row {row.id}: {run.folder} was evaluated on {' '.join(data)}, "
            f"the row is {row.dataset} {row.language}"
        )


def differing_settings(run: Run, row: PublishedRow) -> list[str]:
    """The run's settings, as far as known, that are not the published ones: `epochs 3 (published: 5)`."""
    differences = []
    for name, value in row.settings.items():
        config = run.config if name in _AT_EVALUATION else run.trained_by
        if config is None or name not in {**_BEFORE, **config}:
            continue
        ours = {**_BEFORE, **config}[name]
        if ours != value:
            differences.append(f"{name} {ours} (published: {value})")
    return differences


def size_problem(run: Run, row: PublishedRow, published: Published) -> str | None:
    """Why the run's test list is not the published one, or None."""
    for what, wanted in published.test_sizes[row.dataset].items():
        count = run.evaluation.get(what)
        if count != wanted:
            return f"{'unknown number of' if count is None else format(count, ',')} {what}, not {wanted:,}"
    if run.evaluation.get("comparable") is False:
        return "the run's log says that it is not comparable"
    return None


def _origin(config: Settings) -> tuple[str, bool]:
    """(table, pre-trained as published or not) of the run with this `config`."""
    if config["do_pretrain"]:
        if config["dataset"] != DEFAULT_DATASET:
            raise UnplacedError(
                f"pre-trained on {config['dataset']}; the published rows are on {DEFAULT_DATASET}{_GIVE_ROW}"
            )
        return "zero-shot", True
    checkpoint = config["init_model"]
    before = settings_beside(checkpoint)
    if config["do_train"]:
        if before is not None and not (before["do_pretrain"] and before["dataset"] == DEFAULT_DATASET):
            raise UnplacedError(f"{checkpoint} was not pre-trained on {DEFAULT_DATASET}{_GIVE_ROW}")
        return "fine-tune", checkpoint is not None
    if checkpoint is None:
        raise UnplacedError(
            "evaluates weights that were not trained on video; there is no such published row"
        )
    if before is None or not (before["do_train"] or before["do_pretrain"]):
        raise UnplacedError(
            f"no config.json in the folder of {checkpoint} says how it was trained{_GIVE_ROW}"
        )
    if before["do_train"] and before["dataset"] != config["dataset"]:
        raise UnplacedError(f"fine-tuned on {before['dataset']}, evaluated on {config['dataset']}{_GIVE_ROW}")
    return _origin(before)
