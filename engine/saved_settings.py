"""The settings of the run that wrote a checkpoint: the config.json beside it.

One rule for evaluation, training, search and `tools/watch_checkpoints.py`: settings come from that file,
flags that are given override them, and a flag that disagrees with the file is a warning.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.languages import BILINGUAL, languages_of
from dataloaders.datasets.files import read_json_object
from engine.command_line import Remark
from engine.config import Config

SETTINGS_FILE = "config.json"
EVALUATION_SETTINGS_FILE = "config.eval.json"  # of evaluations, so that none replaces the training's file
# What a training takes over: the network, and the tokens that its text encoder knows.
MODEL = (
    *("clip_model", "clip_weights", "image_size", "tokenizer"),
    *("pretrained_text", "text_tower", "language", "legacy_special_tokens"),
    *("use_temp", "temporal_layers", "head", "wti_layers", "xpool_heads"),
)
# What an evaluation takes over: also how features and scores are computed.
FEATURES = (
    *MODEL,
    *("use_frame_fea", "top_frames", "max_frames", "max_words", "frame_sample_len", "head_padding"),
)
PATHS = ("clip_model", "pretrained_text", "tokenizer")  # settings that may be a path
BESIDE = "beside"  # those whose path lies in the folder of the file (models saved for others)
# A setting without effect cannot disagree: (setting, the one that it needs, the values that it needs).
_NEEDS: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    ("pretrained_text", "language", ("chinese", BILINGUAL)),
    ("legacy_special_tokens", "language", ("chinese", BILINGUAL)),
    ("temporal_layers", "use_temp", (True,)),
    ("top_frames", "use_frame_fea", (True,)),
    ("wti_layers", "head", ("wti",)),
    ("xpool_heads", "head", ("xpool",)),
    ("clip_weights", "init_model", (None,)),  # a checkpoint has all weights; preprocessing follows the flag
)
# Values that older versions wrote, and what they are now.
_OLD_VALUES: dict[str, dict[Any, Any]] = {"compile": {True: "on", False: "off"}}
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
Settings = Mapping[str, Any]


def settings_file(checkpoint: Path) -> Path:
    """Where the settings of a checkpoint, or of a folder of checkpoints, are expected."""
    return (checkpoint if checkpoint.is_dir() else checkpoint.parent) / SETTINGS_FILE


def read_saved_settings(path: Path) -> Settings | None:
    """The settings in a config.json; None if the file is absent or of another program.

    Raises `UserError` that names the file if it is no JSON object or a setting has a wrong type.
    """
    if not path.is_file():
        return None
    saved = read_json_object(path)
    if not {"output_dir", "do_train", "language"} <= saved.keys():  # transformers has a config.json too
        return None
    return check_settings(_with_paths(saved, path), path)


def _with_paths(saved: Settings, path: Path) -> dict[str, Any]:
    """`saved` with the paths of files that lie beside `path`."""
    beside = saved.get(BESIDE) or []
    listed = beside if isinstance(beside, list) else [beside]
    wrong = [
        name for name in listed if name not in PATHS or Path(str(saved.get(name))).name != saved.get(name)
    ]
    if wrong:
        raise UserError(
            f"{path}: {BESIDE} lists {wrong[0]!r}, which is no setting with a file in this folder"
        )
    return {**saved, **{name: str(path.parent.absolute() / saved[name]) for name in listed}}


def with_new_values(settings: Settings) -> dict[str, Any]:
    """`settings` with the present values in place of those that older versions of the code wrote."""
    return {
        name: _OLD_VALUES[name].get(value, value) if name in _OLD_VALUES else value
        for name, value in settings.items()
    }


def check_settings(settings: Settings, path: Path) -> dict[str, Any]:
    """The settings of a config.json, with present values; those of `Config` have its types and choices.

    Raises `UserError` that names `path` and the setting. Other names, as of other versions, are not checked.
    """
    present = with_new_values(settings)
    for item in dataclasses.fields(Config):
        name, kind = item.name, item.metadata["kind"] or type(item.default)
        value, choices = present.get(name, item.default), item.metadata["choices"]
        if value is None and item.default is None:
            continue
        is_kind = isinstance(value, int | float if kind is float else kind)
        if not is_kind or (isinstance(value, bool) and kind is not bool):
            raise UserError(f"{path}: {name} is {value!r}, it must be {_KINDS[kind]}")
        if choices and value not in choices:
            raise UserError(f"{path}: {name} is {value!r}, it must be one of {', '.join(choices)}")
    return present


def with_checkpoint_settings(config: Config, given: Collection[str]) -> tuple[Config, list[Remark]]:
    """`config` with the settings beside --init_model, and remarks on them. `given`: names that flags give."""
    checkpoint = config.initial_model
    path = settings_file(checkpoint) if checkpoint is not None else None
    saved = read_saved_settings(path) if path is not None else None
    if path is None or saved is None:
        return config, []
    names = MODEL if config.is_training else FEATURES
    if not config.is_training and "head" in given:
        _check_head(config, saved, path)
    merged = take_over(config, saved, names=names, given=given)
    remarks = []
    taken = [as_flag(n, getattr(merged, n)) for n in names if getattr(merged, n) != getattr(config, n)]
    if not config.is_training and not {"dataset", "eval_dataset"} & set(given):
        dataset = tested_on(saved)
        split = config.split if "split" in given else saved.get("split")
        taken += [as_flag("dataset", dataset)] if dataset != merged.dataset else []
        taken += [as_flag("split", split)] if split != merged.split else []
        merged = dataclasses.replace(merged, dataset=dataset, split=split)
    if taken:
        remarks.append(Remark(f"settings of the checkpoint, from {path}: {' '.join(taken)}"))
    if not saved["do_train"] and not saved.get("do_pretrain"):
        remarks.append(
            Remark(f"{path}: settings of an evaluation; perhaps the checkpoint was trained with others", True)
        )
    if saved.get("ema"):
        remarks.append(Remark(_which_weights(checkpoint, saved["ema"])))
    remarks += [Remark(text, True) for text in disagreements(merged, saved, names=names, path=path)]
    return merged, remarks


def _which_weights(checkpoint: Path | None, decay: float) -> str:
    """Whether a file of a training with --ema holds the average."""
    if checkpoint is not None and checkpoint.name.startswith("training_state."):
        average = f"their average (--ema {decay:g}) is in pytorch_model.bin.N"
        return f"{checkpoint}: the weights that were trained; {average}"
    return f"{checkpoint}: weights averaged over the steps of the training (--ema {decay:g})"


def _check_head(config: Config, saved: Settings, path: Path) -> None:
    trained = saved.get("head", Config.head)
    if trained != config.head and not config.allow_other_head:
        raise UserError(
            f"--head {config.head}: {path} says that the checkpoint was trained with --head {trained}; leave "
            "the flag out, or add --allow_other_head"
        )


def take_over(config: Config, saved: Settings, *, names: Sequence[str], given: Collection[str]) -> Config:
    """`config` with the settings `names` of `saved`, except those that are `given`."""
    taken = {name: saved[name] for name in names if name in saved and name not in given}
    if not taken.get("use_temp"):  # off is no statement of the user: the weights may have this part
        taken.pop("use_temp", None)
    return dataclasses.replace(config, **taken)


def disagreements(config: Config, saved: Settings, *, names: Sequence[str], path: Path) -> list[str]:
    """A line for each setting of `names` that has an effect and differs from `saved`, read from `path`."""
    return [
        f"{as_flag(name, getattr(config, name))} is used, although {path} says {as_flag(name, saved[name])}"
        for name in names
        if name in saved and _has_effect(name, config, saved) and _differ(name, getattr(config, name), saved)
    ]


def tested_on(saved: Settings) -> str:
    """The data set that a run with the settings `saved` evaluates on."""
    fields = {item.name: saved[item.name] for item in dataclasses.fields(Config) if item.name in saved}
    return Config(**fields).test_dataset


def as_flag(name: str, value: Any) -> str:
    """A setting as it is given on the command line."""
    if value is None or isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name} {value}"


def _has_effect(name: str, config: Config, saved: Settings) -> bool:
    needed = [(other, values) for setting, other, values in _NEEDS if setting == name]
    return all(getattr(config, other) in values and saved.get(other) in values for other, values in needed)


def _differ(name: str, value: Any, saved: Settings) -> bool:
    if name in PATHS:  # the same file may be elsewhere on another machine
        return Path(str(value)).name != Path(str(saved[name])).name
    if name == "language":  # a bilingual model can be read as one of one language, and started from one
        return not set(languages_of(value)) & set(languages_of(saved[name]))
    return bool((value or None) != (saved[name] or None))
