"""The output folder of a run: used or not, locked while a training runs, its settings files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from common.errors import UserError
from engine.config import Config
from engine.distributed.world import World
from engine.output_folder import OutputFolder, on_main, save_evaluation_settings, training_files
from tests.processes import free_port, run_ranks

STATE, CHECKPOINT = "training_state.4.pt", "pytorch_model.bin.0"


def config_of(folder: Path, **settings: object) -> Config:
    return Config(output_dir=str(folder), **{"do_train": True, **settings})  # type: ignore[arg-type]


def opened(folder: Path, **settings: object) -> None:
    """Open the folder as a run with `settings` does, and close it."""
    OutputFolder(config_of(folder, **settings)).release()


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_text("x", encoding="utf-8")


def write_results(folder: Path, *results: dict[str, object]) -> None:
    lines = "".join(json.dumps(result) + "\n" for result in results)
    (folder / "metrics.jsonl").write_text(lines, encoding="utf-8")


@pytest.mark.parametrize("name", [STATE, CHECKPOINT, "steps.jsonl", "metrics.jsonl"])
def test_a_folder_that_holds_a_training_is_refused(name: str, tmp_path: Path) -> None:
    write(tmp_path, name, "config.json")
    if name == "metrics.jsonl":
        write_results(tmp_path, {"epoch": 0, "job": "train"})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(
        UserError, match=rf"^--output_dir {tmp_path}: holds a training \({name}\); --resume auto"
    ):
        opened(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    opened(tmp_path, do_train=False, do_eval=True)  # evaluations may use it
    opened(tmp_path, overwrite=True)


def test_a_folder_with_logs_alone_is_not_used(tmp_path: Path) -> None:
    write(
        tmp_path, "log.txt", "config.json", "config.eval.json", "stopped", f"{STATE}.tmp", "pytorch_model.bin"
    )
    (tmp_path / "steps.jsonl").touch()
    # Of evaluations: of one checkpoint, as older versions wrote it too, and of a folder of checkpoints.
    write_results(tmp_path, {"epoch": None}, {"epoch": None, "job": "eval"}, {"epoch": 3, "job": "eval"})
    assert training_files(tmp_path) == []
    opened(tmp_path)
    opened(tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder").is_dir()


def test_resuming_continues_what_is_in_this_folder(tmp_path: Path) -> None:
    write(tmp_path, "steps.jsonl")
    opened(tmp_path, resume="auto")  # killed before its first save: it starts again
    write(tmp_path, CHECKPOINT)
    with pytest.raises(UserError, match="no training state to resume from; give --overwrite in place of"):
        opened(tmp_path, resume="auto")
    write(tmp_path, STATE)
    for resume in ("auto", str(tmp_path), str(tmp_path / STATE)):
        opened(tmp_path, resume=resume)
    elsewhere = tmp_path / "elsewhere"
    opened(elsewhere, resume=str(tmp_path / STATE))
    write(elsewhere, STATE)
    with pytest.raises(UserError, match="holds a training"):
        opened(elsewhere, resume=str(tmp_path / STATE))
    opened(elsewhere, resume="nowhere")  # engine/checkpoint/resume.py refuses it


def test_overwriting_deletes_the_training_when_the_new_one_starts(tmp_path: Path) -> None:
    files = [STATE, CHECKPOINT, "steps.jsonl", "best.json"]
    write(tmp_path, *files, "log.txt", "notes.txt", "config.json", f"{STATE}.tmp")
    output = OutputFolder(config_of(tmp_path, overwrite=True, seed=7))
    assert (tmp_path / STATE).exists()  # a run that is refused later changes nothing
    message = output.start_training(resumed=False)
    output.release()
    assert message == f"--overwrite: deleted the earlier training ({STATE}, {CHECKPOINT}, steps.jsonl)"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "log.txt", "notes.txt"]
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["seed"] == 7

    write(tmp_path, CHECKPOINT)
    with pytest.raises(UserError, match="--overwrite: would delete --init_model"):
        opened(tmp_path, overwrite=True, init_model=str(tmp_path / CHECKPOINT))


def test_a_second_training_is_refused_while_the_first_runs(tmp_path: Path) -> None:
    first = OutputFolder(config_of(tmp_path))
    for settings in ({}, {"resume": "auto"}, {"overwrite": True}):  # a job that is queued twice, too
        with pytest.raises(UserError) as error:
            OutputFolder(config_of(tmp_path, **settings))
        assert f"--output_dir {tmp_path}: another training writes to it (process {os.getpid()} on " in str(
            error
        )
        assert "\n" not in str(error.value)
    opened(tmp_path, do_train=False, do_eval=True)
    first.release()
    first.release()
    write(tmp_path, STATE)
    with pytest.raises(UserError, match="holds a training"):
        opened(tmp_path)
    opened(tmp_path, resume="auto")  # the refused run does not keep the lock


def _refused_on_both(rank: int, port: str, folder: str) -> None:
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "CUDA_VISIBLE_DEVICES": ""})
    os.environ.update({"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)})
    world = World.from_environment()
    with pytest.raises(UserError, match="another training writes to it"):
        on_main(world, lambda: OutputFolder(config_of(Path(folder))))
    world.close()


def test_rank_0_locks_and_the_others_are_told(tmp_path: Path) -> None:
    output = OutputFolder(config_of(tmp_path))
    run_ranks(_refused_on_both, 2, free_port(), str(tmp_path))
    output.release()


def test_an_evaluation_leaves_the_settings_of_the_training(tmp_path: Path) -> None:
    write(tmp_path, "config.json")
    world = World.from_environment(environ={})
    save_evaluation_settings(config_of(tmp_path, do_train=False, do_eval=True, max_frames=3), world)
    assert (tmp_path / "config.json").read_text(encoding="utf-8") == "x"
    assert json.loads((tmp_path / "config.eval.json").read_text(encoding="utf-8"))["max_frames"] == 3
