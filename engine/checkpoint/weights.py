"""Load a checkpoint into a model: by name, each part completely or not at all, with a report.

`engine/checkpoint/files.py` reads and writes the files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from common.errors import UserError
from engine.checkpoint.files import State
from engine.checkpoint.positions import fit_positions

HEAD_GROUP = "similarity head"
# The group of a parameter name, as the loading report calls it: the first prefix that matches.
GROUPS = (
    ("visual_encoder.visual.", "image tower"),
    ("visual_encoder.", "temporal transformer"),
    ("text_encoder.", "text encoder"),
    ("visual_encoder_k.", "momentum encoders"),
    ("text_encoder_k.", "momentum encoders"),
    ("v_projector_k.", "momentum encoders"),
    ("t_projector", "text projectors (in no loss)"),
    ("v_projector.", "projector and predictor"),
    ("v_predictor.", "projector and predictor"),
    ("cls.", "masked-word head"),
    ("logits.", "logit scale and bias"),
    ("head.", HEAD_GROUP),
    ("queue_", "queues"),
)
ENCODER_GROUPS = ("image tower", "temporal transformer", "text encoder")
# The flag that an encoder's layers and shapes come from.
_FLAGS = {"image tower": "--clip_model", "temporal transformer": "--temporal_layers"}
_CHINESE = ("chinese_encoder.", "text_proj.")  # of a text encoder; all other names are CLIP's
_FEW = 4  # fewer weights than a layer of any encoder has
_FRESH = {
    "momentum encoders": "start as copies of the encoders",
    "projector and predictor": "start from random weights",
    "masked-word head": "starts from random weights",
    HEAD_GROUP: "starts from new weights",
    "queues": "start without keys, as noise",
    "logit scale and bias": "start from the values of the backbone or of --loss",
}


def group_of(name: str) -> str:
    """The part of the model that a published parameter name belongs to."""
    if name.endswith(".position_ids"):
        return "position numbers (a constant)"
    return next((group for prefix, group in GROUPS if name.startswith(prefix)), "unknown")


def count_by_group(names: Iterable[str]) -> str:
    """Tensors of each group, as "image tower 152, text encoder 149"."""
    counts = Counter(map(group_of, names))
    return ", ".join(f"{group} {count}" for group, count in counts.items())


@dataclass(frozen=True)
class LoadReport:
    """Which names were loaded from the file at `path`, and which were not.

    `left_out`: not in the model; `missing`: not in the file; `misshapen`: the shapes differ; `fresh`: not
    loaded because its part is incomplete in the file. `resized`: sentences on positions of another number.
    """

    path: str
    loaded: tuple[str, ...]
    left_out: tuple[str, ...]
    missing: tuple[str, ...]
    misshapen: tuple[str, ...]
    fresh: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """One line for each outcome with its number of tensors by group, then the consequences."""
        outcomes = [("loaded", self.loaded), ("left out", self.left_out)]
        outcomes += [("not in the file", self.missing), ("of another shape", self.misshapen)]
        lines = [f"{outcome}: {count_by_group(names)}" for outcome, names in outcomes if names]
        for group in dict.fromkeys(map(group_of, self.fresh)):
            lines.append(f"{group}: incomplete in the file; {_FRESH.get(group, 'keeps its initial values')}")
        return [f"{self.path}: {line}" for line in (*lines, *self.resized)]

    def warnings(self) -> list[str]:
        """A line for each part of the file that the model lacks and that the file's own model used."""
        lines = []
        unknown = [name for name in self.left_out if group_of(name) == "unknown"]
        if unknown:
            lines.append(f"{len(unknown)} tensors left out, their names are unknown{_examples(unknown)}")
        if self.without_temporal:
            lines.append("it was trained with --use_temp, this run is not: video features will differ")
        if any(group_of(name) == HEAD_GROUP for name in self.left_out):
            lines.append("it was trained with another --head, whose weights are left out")
        return [f"{self.path}: {line}" for line in lines]

    @property
    def without_temporal(self) -> bool:
        """Whether the file has a temporal transformer and the model has none."""
        # These names are left out only where the model has no temporal transformer.
        return any(group_of(name) == "temporal transformer" for name in self.left_out)


def load_state(
    model: nn.Module, state: Mapping[str, torch.Tensor], *, path: str, may_lack: Collection[str] = ()
) -> LoadReport:
    """Copy the tensors of `state` that fit by name and shape into `model`, in the dtype of the model.

    Positions of another number are interpolated or cut (positions.py). `path` names the file in the report
    and in errors. The text encoders of the languages in `may_lack` keep their weights if the file has none;
    those of a language that the model lacks are left out of a file that has both. Raises `UserError` where an
    encoder does not fit completely (training would continue from random weights), or where a weight is not
    finite or not a floating-point number. Any other part (head, momentum encoders, projector, predictor,
    masked-word head, queues) that is incomplete keeps its initial values; momentum encoders become copies of
    the encoders.
    """
    current = model.state_dict()
    state = _with_tied_names(state, current)
    state, resized = fit_positions(state, current)
    may_lack = set(may_lack) - text_languages(state)
    report = replace(_compare(state, current, path=path), resized=resized)
    _refuse_incomplete_encoders(report, state, current, may_lack)
    _refuse_bad_numbers(report, state, current)
    model.load_state_dict({name: state[name] for name in report.loaded}, strict=False)
    _start_momentum_copies(model, report)
    return report


def _with_tied_names(state: Mapping[str, torch.Tensor], current: State) -> Mapping[str, torch.Tensor]:
    """`state` with both names of a tensor that the model has under two names: some writers keep only one."""
    in_file = {t.data_ptr(): name for name, t in current.items() if name in state and t.numel()}
    twins = {
        name: in_file[t.data_ptr()]
        for name, t in current.items()
        if name not in state and t.data_ptr() in in_file
    }
    return {**state, **{name: state[twin] for name, twin in twins.items()}}


def _compare(state: Mapping[str, torch.Tensor], current: State, *, path: str) -> LoadReport:
    fits = {name: name in state and state[name].shape == tensor.shape for name, tensor in current.items()}
    incomplete = {_part(name) for name, fit in fits.items() if not fit and not _may_be_absent(name, state)}
    # The file's momentum copy of a part that is not loaded is not loaded either: it copies other weights.
    incomplete |= {f"{part}_k" for part in incomplete} & {_part(name) for name in current}
    fresh = {name for name in current if _part(name) in incomplete or not fits[name]}
    return LoadReport(
        path=path,
        loaded=tuple(name for name in current if name not in fresh),
        left_out=tuple(name for name in state if name not in current),
        missing=tuple(name for name in current if name not in state),
        misshapen=tuple(name for name in current if name in state and not fits[name]),
        fresh=tuple(name for name in current if name in fresh and group_of(name) not in ENCODER_GROUPS),
    )


def _part(name: str) -> str:
    """The part that `name` loads with: a module of the model, or all queues with their pointer.

    The text encoders of a bilingual model are two parts.
    """
    module = "queue" if name.startswith("queue_") else name.split(".")[0]
    return f"chinese {module}" if _text_language_of(name) == "chinese" else module


def _text_language_of(name: str) -> str | None:
    """The language of the text encoder, or of its momentum copy, that has the weight `name`; else None."""
    module, _, rest = name.partition(".")
    if module not in ("text_encoder", "text_encoder_k"):
        return None
    return "chinese" if rest.startswith(_CHINESE) else "english"


def text_languages(names: Iterable[str]) -> set[str]:
    """The languages that the text encoders among the names of a state are for."""
    found = {_text_language_of(name) for name in names if name.startswith("text_encoder.")}
    return {language for language in found if language}


def _may_be_absent(name: str, state: Mapping[str, torch.Tensor]) -> bool:
    """Whether the other queues may be loaded without this one: a run without its loss does not have it."""
    return name.startswith("queue_") and name not in state and "queue_ptr" in state


def _refuse_incomplete_encoders(
    report: LoadReport, state: Mapping[str, torch.Tensor], current: State, may_lack: Collection[str]
) -> None:
    """Raise where the file lacks weights of the model's encoders, or has more of them."""
    missing = [
        name
        for name in report.missing
        if group_of(name) in ENCODER_GROUPS and _text_language_of(name) not in may_lack
    ]
    misshapen = [name for name in report.misshapen if group_of(name) in ENCODER_GROUPS]
    used = {group_of(name) for name in report.loaded if group_of(name) in ENCODER_GROUPS}
    other_language = text_languages(state) - text_languages(current)
    if not text_languages(state) & text_languages(current):
        other_language = set()  # nothing of this model's language: then the file does not fit
    surplus = [
        name
        for name in report.left_out
        if group_of(name) in used and _text_language_of(name) not in other_language
    ]
    if not missing and not misshapen and not surplus:
        return
    total = sum(group_of(name) in ENCODER_GROUPS for name in current)
    shapes = [f"{name} {_shape(state[name])} there, {_shape(current[name])} here" for name in misshapen]
    problems = (
        (f"{len(missing)} of {total} encoder weights missing", missing),
        (f"{len(misshapen)} of another shape", shapes),
        (f"{len(surplus)} that this model does not have", surplus),
    )
    raise UserError(
        f"checkpoint {report.path} does not fit this model: "
        + "; ".join(problem + _examples(names) for problem, names in problems if names)
        + _hint(missing, misshapen, surplus, state, current)
    )


def _hint(
    missing: Sequence[str],
    misshapen: Sequence[str],
    surplus: Sequence[str],
    state: Mapping[str, torch.Tensor],
    current: State,
) -> str:
    """Why the checkpoint probably does not fit, and the flag to change."""
    if "clip.visual.proj" in state:
        return ". It has CLIP4Clip's names: tools/convert_checkpoint.py translates them."
    if "visual.proj" in state and "token_embedding.weight" in state:
        return ". These are CLIP's own weights: give them with --clip_weights."
    there, here = text_languages(state), text_languages(current)
    if there and not here <= there:
        (language,) = there
        only = " only" if here & there else ""
        article = {"chinese": "a", "english": "an"}[language]
        return f". It holds {article} {language.capitalize()} text encoder{only}: give --language {language}."
    groups = {group_of(name) for name in missing}
    if groups == {"temporal transformer"} and not any(group_of(name) in groups for name in state):
        return ". It was trained without --use_temp: leave that flag out."
    if not misshapen and not surplus and len(missing) < _FEW:
        return ". All others fit, so the file is incomplete: it must hold these too."
    flags = {_flag_of(name) for name in (*missing, *misshapen, *surplus)}
    return f". It was trained with another {' or '.join(sorted(flags))}: give the one of its training."


def _flag_of(name: str) -> str:
    """The flag that an encoder's weight of this name comes from."""
    if _text_language_of(name) is None:
        return _FLAGS[group_of(name)]
    return "--pretrained_text" if _text_language_of(name) == "chinese" else "--clip_model"


def _refuse_bad_numbers(report: LoadReport, state: Mapping[str, torch.Tensor], current: State) -> None:
    weights = [name for name in report.loaded if current[name].is_floating_point() and state[name].numel()]
    other = [name for name in weights if not state[name].is_floating_point()]
    if other:
        dtype = str(state[other[0]].dtype).removeprefix("torch.")
        raise UserError(
            f"checkpoint {report.path}: {len(other)} weights are not floating-point but {dtype}"
            + _examples(other)
        )
    bad = [name for name in weights if not _fits_float32(state[name])]
    if bad:
        raise UserError(
            f"checkpoint {report.path}: {len(bad)} weights hold values that are not finite in float32"
            f"{_examples(bad)}"
        )


def _fits_float32(tensor: torch.Tensor) -> bool:
    # `aminmax` returns NaN where there is one. Unlike `isfinite` it allocates no tensor of the same size.
    low, high = torch.aminmax(tensor)
    limit = torch.finfo(torch.float32).max
    return -limit <= float(low) and float(high) <= limit


def _start_momentum_copies(model: nn.Module, report: LoadReport) -> None:
    """Copy the weights just loaded into the key modules that the file lacks, as MoCo starts."""
    current = model.state_dict()
    fresh = [name for name in report.fresh if group_of(name) == "momentum encoders"]
    model.load_state_dict({name: current[name.replace("_k.", ".", 1)] for name in fresh}, strict=False)


def _shape(tensor: torch.Tensor) -> str:
    """The shape of a tensor, as 768x3x32x32."""
    return "x".join(map(str, tensor.shape)) or "scalar"


def _examples(names: Sequence[str]) -> str:
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
