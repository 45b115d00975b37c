"""Checkpoints: read every published form safely, load with a report, write atomically.

Files are state dicts under the published names (METHOD 8), so that the published code reads ours.
"""

from __future__ import annotations

import os
import pickle
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

State = dict[str, torch.Tensor]

# First match decides. What a name belongs to, in the words of the loading report.
GROUPS = (
    ("visual_encoder.visual.", "image tower"),
    ("visual_encoder.", "temporal transformer"),
    ("text_encoder.", "text encoder"),
    ("visual_encoder_k.", "momentum copies"),
    ("text_encoder_k.", "momentum copies"),
    ("v_projector_k.", "momentum copies"),
    ("t_projector", "text projectors (in no loss)"),
    ("v_projector.", "projector and predictor"),
    ("v_predictor.", "projector and predictor"),
    ("cls.", "masked-word head"),
    ("queue_", "queues"),
)
ENCODER_GROUPS = ("image tower", "temporal transformer", "text encoder")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")


def group_of(name: str) -> str:
    """The part of the model that a published parameter name belongs to."""
    return next((group for prefix, group in GROUPS if name.startswith(prefix)), "unknown")


@dataclass(frozen=True)
class LoadReport:
    """What became of each name: loaded, left out (not in the model), missing (not in the file), misshapen."""

    path: str
    loaded: tuple[str, ...]
    left_out: tuple[str, ...]
    missing: tuple[str, ...]
    misshapen: tuple[str, ...]

    def lines(self) -> list[str]:
        """One line a kind, counted by group."""
        kinds = [("loaded", self.loaded), ("left out", self.left_out), ("not in the file", self.missing)]
        kinds.append(("other shape", self.misshapen))
        return [f"{self.path}: {kind} {_by_group(names)}" for kind, names in kinds if names]


def read_state(path: str | os.PathLike[str]) -> State:
    """The tensors of a checkpoint file, in float32 on the CPU, under the published names.

    Takes `torch.save` files (read with `weights_only`) and `.safetensors`; undoes wrapping dicts, `module.`
    prefixes and BERT's old `gamma`/`beta`. Raises `ValueError`: no such file, truncated, holds code, holds no
    tensors, or not-a-number weights (named).
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"checkpoint {path}: no such file")
    raw = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    state = {_published_name(name): tensor for name, tensor in raw.items()}
    if not state:
        raise ValueError(f"checkpoint {path}: holds no tensors; expected a state dict")
    for name, tensor in state.items():
        if tensor.is_floating_point():
            state[name] = tensor = tensor.float()
            if not torch.isfinite(tensor).all():
                raise ValueError(f"checkpoint {path}: {name} holds values that are not finite")
    return state


def _read_safetensors(path: Path) -> State:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(
            f"checkpoint {path}: not a readable safetensors file ({_first_line(error)})"
        ) from None


def _read_torch(path: Path) -> State:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(
            f"checkpoint {path}: refused: it holds more than tensors, and no code is run from a checkpoint; "
            "save its state_dict() alone"
        ) from None
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise ValueError(f"checkpoint {path}: truncated or not a torch file ({_first_line(error)})") from None
    while isinstance(content, Mapping):
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        raise ValueError(f"checkpoint {path}: holds a {type(content).__name__}; expected a state dict")
    return {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__


def _published_name(name: str) -> str:
    while name.startswith("module."):
        name = name.removeprefix("module.")
    if name.endswith(".gamma"):
        return name.removesuffix("gamma") + "weight"
    if name.endswith(".beta"):
        return name.removesuffix("beta") + "bias"
    return name


def load_state(model: nn.Module, state: Mapping[str, torch.Tensor], *, path: str) -> LoadReport:
    """Copy into `model` what fits by name and shape. Never partly: a name of another shape is not loaded.

    Raises `ValueError` when an encoder weight of the model is missing or misshapen: training would go on
    from random weights. Other groups may be absent (momentum copies then start as copies of the encoders).
    """
    own = model.state_dict()
    loaded = tuple(name for name in own if name in state and own[name].shape == state[name].shape)
    misshapen = tuple(name for name in own if name in state and own[name].shape != state[name].shape)
    report = LoadReport(
        path=path,
        loaded=loaded,
        left_out=tuple(name for name in state if name not in own),
        missing=tuple(name for name in own if name not in state),
        misshapen=misshapen,
    )
    _refuse_half_an_encoder(report, state)
    model.load_state_dict({name: state[name] for name in loaded}, strict=False)
    _start_momentum_copies(model, report)
    return report


def _refuse_half_an_encoder(report: LoadReport, state: Mapping[str, torch.Tensor]) -> None:
    """Raise when the file cannot give all weights of the model's encoders."""
    missing = [name for name in report.missing if group_of(name) in ENCODER_GROUPS]
    misshapen = [name for name in report.misshapen if group_of(name) in ENCODER_GROUPS]
    if not missing and not misshapen:
        return
    total = sum(group_of(name) in ENCODER_GROUPS for name in (*report.loaded, *missing, *misshapen))
    lacking = f"{len(missing)} of {total} encoder weights missing" + _examples(missing)
    differing = f"{len(misshapen)} of another shape" + _examples(misshapen)
    raise ValueError(
        f"checkpoint {report.path} does not fit this model: "
        + "; ".join(part for part, names in ((lacking, missing), (differing, misshapen)) if names)
        + _hint(missing, state)
    )


def _hint(missing: Iterable[str], state: Mapping[str, torch.Tensor]) -> str:
    """The likely reason of a misfit, as the flag to change."""
    chinese = any(name.startswith("text_encoder.chinese_encoder.") for name in state)
    english = any(name.startswith("text_encoder.token_embedding.") for name in state)
    groups = {group_of(name) for name in missing}
    if "text encoder" in groups and chinese != english:
        return f". It holds a {'Chinese' if chinese else 'English'} text encoder: is --language right?"
    if groups == {"temporal transformer"}:
        return ". It was trained without --use_temp: leave that flag out."
    return ". Check --clip_model, --pretrained_text, --use_temp and --language."


def _start_momentum_copies(model: nn.Module, report: LoadReport) -> None:
    """Key encoders that the file lacks start as copies of the encoders just loaded, as in MoCo."""
    lacking = {name.split(".")[0] for name in report.missing if group_of(name) == "momentum copies"}
    for key_name in lacking:
        key = getattr(model, key_name)
        key.load_state_dict(getattr(model, key_name.removesuffix("_k")).state_dict())


def _by_group(names: Iterable[str]) -> str:
    counts = Counter(group_of(name) for name in names)
    return ", ".join(f"{count} of {group}" for group, count in counts.items())


def _examples(names: list[str]) -> str:
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def save_state(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write a state dict under a temporary name, force it to disk, rename it: never half a file."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def checkpoint_path(output_dir: Path, epoch: int) -> Path:
    """OUTPUT_DIR/pytorch_model.bin.{epoch}, the published name; epochs count from 0."""
    return output_dir / f"pytorch_model.bin.{epoch}"
