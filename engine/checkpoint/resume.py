"""`--resume`: find the training state to resume from, and check that the run may resume from it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from dataloaders.examples import Examples, PackedStrings
from engine.checkpoint.files import list_checkpoints
from engine.checkpoint.states import list_states, newest_state, read_state_file, step_of
from engine.config import Config
from engine.distributed.world import World
from engine.logs.run_log import RunLog
from engine.saved_settings import with_new_values

# Settings that may differ from those of the saved run, because they do not change the numbers of the training
# or only say where files are. Training data are compared by their content instead.
MAY_DIFFER = frozenset(
    (
        *("output_dir", "overwrite", "resume", "save_steps", "keep", "max_bad_steps", "max_bad_samples"),
        *("n_display", "logdir", "wandb", "local_rank", "num_thread_reader", "batch_size_val", "cache_dir"),
        *("shards", "samples_per_epoch", "max_bad_share"),
        *("data_dir", "train_annotations", "train_list", "train_store", "allow_missing"),
        *("eval_annotations", "eval_list", "eval_store", "clip_weights", "init_model", "enable_amp"),
        "allow_other_head",
        *("do_eval", "do_params", "bootstrap", "report", "dsl", "dsl_temperature", "top_frames"),
        *("qb_norm", "qb_beta", "qb_bank", "save_features", "save_similarity"),
        *("cross_model", "lr_decay", "n_gpu", "world_size", "rank", "fp16_opt_level"),
    )
)
# With these the training computes the same, up to rounding.
NOT_EXACT = ("fsdp", "compile", "grad_cache", "grad_checkpointing")


@dataclass(frozen=True)
class Position:
    """Progress of a run: `step` optimiser steps of epoch `epoch` are done, skipped ones included."""

    epoch: int = 0
    step: int = 0


@dataclass(frozen=True)
class Resumed:
    """The state that a run starts from. Without a `path` the run starts from the beginning."""

    path: Path | None = None
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def position(self) -> Position:
        return Position(**self.state["position"]) if self.path else Position()

    @property
    def global_step(self) -> int:
        """Optimiser steps done since the run first started."""
        return int(self.state["global_step"]) if self.path else 0

    def release(self) -> None:
        """Forget the state once it is restored. While its tensors are mapped, deleting the file would not
        free its disk space."""
        self.state.clear()

    def earlier_states(self, output_dir: Path) -> list[Path]:
        """The state files in `output_dir` that this run wrote before it stopped."""
        if self.path is None or self.path.resolve().parent != output_dir.resolve():
            return []
        return [path for path in list_states(output_dir) if step_of(path) <= self.global_step]


def find_state(config: Config, world: World, log: RunLog) -> Resumed:
    """The state that --resume asks for. Collective: rank 0 chooses the file, all ranks read it.

    `auto` takes the newest intact state of OUTPUT_DIR, if there is one, and warns about damaged ones. Raises
    `UserError` where a given path has no intact state, or where settings differ that change the numbers.
    """
    if config.resume is None or not config.is_training:
        return Resumed()
    path, problem = world.broadcast(_choose(config, log) if world.is_main else None)
    if problem:
        raise UserError(problem)
    if path is None:
        return Resumed()
    state = read_state_file(path)
    for remark in compare_settings(config, state["config"], path=path):
        log.warning(remark)
    if state["world_size"] != world.size:
        log.warning(
            f"{path}: saved by {state['world_size']} ranks, resuming with {world.size}: weights, optimiser, "
            "queues and the order of samples continue exactly; dropout draws other numbers"
        )
    return Resumed(path, state)


def _choose(config: Config, log: RunLog) -> tuple[Path | None, str | None]:
    """(the file to resume from, an error message). Both are None where `auto` finds no state."""
    assert config.resume is not None
    auto = config.resume == "auto"
    file_or_folder = Path(config.output_dir if auto else config.resume).expanduser()
    if not auto and not file_or_folder.is_dir():
        try:
            read_state_file(file_or_folder, thorough=True)
        except UserError as error:
            return None, f"--resume {config.resume}: {error}"
        return file_or_folder, None
    path, problems = newest_state(file_or_folder)
    for problem in problems:
        log.warning(f"{problem}; trying the one before")
    if path is None and auto and list_checkpoints(file_or_folder, numbered=True):
        return None, (
            f"--resume auto: {file_or_folder} holds checkpoints, and no training state there can be read; "
            "give --overwrite in place of --resume to delete them and start anew, or another folder"
        )
    if path is None and not auto:
        return None, f"--resume {config.resume}: no training state in this folder can be read"
    if path is None:
        log.info(f"--resume auto: no training state in {file_or_folder}, the run starts from the beginning")
    else:
        log.info(f"resuming from {path}")
    return path, None


def compare_settings(config: Config, saved: Mapping[str, Any], *, path: Path) -> list[str]:
    """Remarks on changed settings with which the resumed run is equal up to rounding only.

    Raises `UserError` naming every changed flag that must not change, with both values.
    """
    current = dataclasses.asdict(config)
    saved = with_new_values(saved)
    # The code that saved the state may be older and have fewer flags; what it did is their default.
    saved = {item.name: item.default for item in dataclasses.fields(Config)} | saved
    changed = [name for name in current if current[name] != saved[name] and name not in MAY_DIFFER]
    refused = [name for name in changed if name not in NOT_EXACT]
    if refused:
        values = ", ".join(f"--{name} {current[name]} (was {saved[name]})" for name in refused)
        raise UserError(f"--resume: settings differ from those of {path}: {values}")
    return [
        f"--{name} {current[name]} (was {saved[name]}): the training continues, equal up to rounding only"
        for name in changed
    ]


def compare_data(current: Mapping[str, Any], resumed: Resumed) -> None:
    """Raise `UserError` where the training examples differ from those of the saved run."""
    if resumed.path is None:
        return
    saved = resumed.state["data"]
    if current["examples"] != saved["examples"]:
        raise UserError(
            f"--resume: {current['examples']:,} training examples, {resumed.path} was made with "
            f"{saved['examples']:,}; give the same --dataset, --data_dir and training files"
        )
    if current["sha256"] != saved["sha256"]:
        raise UserError(
            f"--resume: the training texts or videos differ from those of {resumed.path}, although there are "
            "as many; give the same training files"
        )


def describe_data(examples: Examples) -> dict[str, Any]:
    """Number and hash of the training examples. The hash covers their content and order, not their files."""
    digest = hashlib.sha256()
    for strings in (examples.video_ids, examples.captions, examples.tags):
        _add_strings(digest, strings)
    digest.update(np.ascontiguousarray(examples.video_of_caption).tobytes())
    if examples.durations is not None:  # --frame_sample_len dynamic uses them
        digest.update(np.ascontiguousarray(examples.durations).tobytes())
    if examples.languages is not None:
        digest.update(np.ascontiguousarray(examples.languages).tobytes())
    return {"examples": examples.num_captions, "sha256": digest.hexdigest()}


def _add_strings(digest: hashlib._Hash, strings: PackedStrings | None) -> None:
    for text in strings or ():
        encoded = text.encode("utf-8")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    digest.update(b"\xff" * 8)
