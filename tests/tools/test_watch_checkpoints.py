"""tools/watch_checkpoints.py: its settings and messages; tests/e2e/test_selection.py runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.config_checks import parse_and_check
from engine.evaluation.feature_files import file_digest
from tools.results.run_folders import read_settings
from tools.watch_checkpoints import evaluation_config, main


def settings_of(folder: Path, program: str, *flags: str) -> Path:
    folder.mkdir(exist_ok=True)
    config, _ = parse_and_check(["--output_dir", str(folder), *flags], program=program)
    config.save(folder / "config.json")
    return folder


def test_settings_are_those_of_the_run_and_flags_win(tmp_path: Path) -> None:
    run = ("--do_train", "--dataset", "msrvtt", "--language", "english", "--use_temp", "--top_frames", "2")
    folder = settings_of(
        tmp_path, "main_task_retrieval.py", *run, "--lr", "1e-5", "--wandb", "--freeze", "text"
    )
    config, remarks = evaluation_config(
        read_settings(folder / "config.json"), ["--batch_size_val", "7"], output_dir=folder / "watched"
    )
    assert remarks == []
    assert config.do_eval and not config.is_training and config.output_dir == str(folder / "watched")
    assert (config.dataset, config.language, config.use_temp, config.top_frames) == (
        "msrvtt",
        "english",
        True,
        2,
    )
    assert config.batch_size_val == 7 and not config.wandb and config.freeze == ""
    flags = ["--top_frames", "1", "--max_frames", "4"]
    config, remarks = evaluation_config(
        read_settings(folder / "config.json"), flags, output_dir=folder / "watched"
    )
    assert (config.top_frames, config.max_frames) == (1, 4)
    # Without --use_frame_fea no score depends on --top_frames.
    (remark,) = remarks
    assert remark.is_warning and remark.text.endswith("/config.json says --max_frames 12")


def test_the_precision_is_that_of_the_device_here(tmp_path: Path) -> None:
    """A run on a GPU saved fp16, with which the evaluation of its checkpoints on a CPU would be refused."""
    folder = settings_of(tmp_path, "main_task_retrieval.py", "--do_train", "--dataset", "vatex")
    settings = dict(read_settings(folder / "config.json")) | {"precision": "fp16", "enable_amp": True}
    config, remarks = evaluation_config(settings, [], output_dir=folder / "watched")
    assert config.precision == "auto" and remarks == []
    config, _ = evaluation_config(settings, ["--precision", "bf16"], output_dir=folder / "watched")
    assert config.precision == "bf16"


@pytest.mark.parametrize(("language", "dataset"), [("english", "msrvtt"), ("chinese", "vatex")])
def test_pre_training_is_watched_where_it_is_tested(language: str, dataset: str, tmp_path: Path) -> None:
    folder = settings_of(
        tmp_path, "main_pretrain.py", "--do_pretrain", "--language", language, "--use_frame_fea"
    )
    config, _ = evaluation_config(read_settings(folder / "config.json"), [], output_dir=folder / "watched")
    assert config.test_dataset == dataset and config.use_frame_fea and config.language == language


def test_only_training_runs_are_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "config.json: no such file" in capsys.readouterr().err
    settings_of(tmp_path, "main_task_retrieval.py", "--do_eval", "--dataset", "vatex")
    assert main([str(tmp_path)]) == 2
    assert "not the folder of a training run" in capsys.readouterr().err
    settings = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(settings | {"do_train": True}), encoding="utf-8")
    assert main([str(tmp_path), "--once"]) == 0  # there is no checkpoint yet


def test_bad_settings_and_intervals_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = settings_of(tmp_path, "main_task_retrieval.py", "--do_train")
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(settings | {"epochs": "x"}), encoding="utf-8")
    assert main([str(folder), "--once"]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "config.json: epochs is 'x', it must be a whole number" in line
    for interval in ("-1", "nan", "1e300"):
        with pytest.raises(SystemExit, match="2"):
            main([str(folder), "--every", interval])
        error = capsys.readouterr().err
        limit = "at most 1,000,000" if interval == "1e300" else "more than 0"
        assert f"--every: must be {limit} seconds, not {interval}" in error


def test_results_of_another_shape_are_evaluated_again(tmp_path: Path) -> None:
    folder = settings_of(tmp_path, "main_task_retrieval.py", "--do_train")
    checkpoint = folder / "pytorch_model.bin.0"
    checkpoint.write_bytes(b"not weights")
    result = {"split": "test", "checkpoint": str(checkpoint), "checkpoint_sha256": file_digest(checkpoint)}
    (folder / "watched").mkdir()
    (folder / "watched" / "metrics.jsonl").write_text(json.dumps(result) + "\n[1]\n", encoding="utf-8")
    assert main([str(folder), "--once"]) == 1
    assert "left out: checkpoint" in (folder / "watched" / "log.txt").read_text(encoding="utf-8")
