"""The settings beside a checkpoint: they are taken over, flags win, a disagreement is a warning."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.errors import UserError
from engine.command_line import Remark
from engine.config import Config
from engine.config_checks import parse_and_check
from engine.saved_settings import read_saved_settings

FINE_TUNED = (
    "--do_train",
    "--dataset",
    "msrvtt",
    "--language",
    "english",
    "--use_temp",
    "--clip_model",
    "toy",
)
PROGRAM = "main_task_retrieval.py"


def trained(folder: Path, *flags: str, program: str = PROGRAM) -> str:
    """A checkpoint in `folder` (its name alone) with the settings of its training beside it."""
    config, _ = parse_and_check([*(flags or FINE_TUNED), "--output_dir", str(folder)], program=program)
    config.save(folder / "config.json")
    (folder / "pytorch_model.bin.0").touch()
    return str(folder / "pytorch_model.bin.0")


def parse(*argv: str) -> tuple[Config, list[Remark]]:
    return parse_and_check([*argv, "--output_dir", "out"], program=PROGRAM)


def warnings(remarks: list[Remark]) -> list[str]:
    return [remark.text for remark in remarks if remark.is_warning]


def test_an_evaluation_needs_no_flag_of_the_model(tmp_path: Path) -> None:
    more = ("--max_frames", "6", "--top_frames", "2", "--use_frame_fea", "--max_words", "20", "--lr", "1e-3")
    model = trained(tmp_path, *FINE_TUNED, *more)
    for given in (model, str(tmp_path)):  # one checkpoint, and a folder of them
        config, remarks = parse("--do_eval", "--init_model", given)
        assert (config.clip_model, config.language, config.use_temp, config.dataset) == (
            *("toy", "english", True, "msrvtt"),
        )
        assert (config.max_frames, config.top_frames, config.use_frame_fea, config.max_words) == (
            6,
            2,
            True,
            20,
        )
        assert config.lr == Config().lr and not config.do_train
        (remark,) = remarks
        assert f"from {tmp_path / 'config.json'}: --clip_model toy " in remark.text and not remark.is_warning
        assert "--use_temp" in remark.text and "--max_frames 6" in remark.text


def test_flags_win_and_a_disagreement_is_a_warning(tmp_path: Path) -> None:
    model = trained(tmp_path)
    flags = (
        "--max_frames",
        "4",
        "--clip_model",
        "elsewhere/toy",
        "--top_frames",
        "1",
        "--language",
        "english",
    )
    config, remarks = parse("--do_eval", "--init_model", model, "--dataset", "vatex", *flags, "--no-use_temp")
    assert (config.max_frames, config.use_temp, config.dataset) == (4, False, "vatex")
    # Without --use_frame_fea no score depends on --top_frames, and a path may differ between machines.
    assert warnings(remarks) == [
        f"--no-use_temp is used, although {tmp_path / 'config.json'} says --use_temp",
        f"--max_frames 4 is used, although {tmp_path / 'config.json'} says --max_frames 12",
    ]


def test_what_the_published_commands_give_is_no_disagreement(tmp_path: Path) -> None:
    model = trained(tmp_path, *FINE_TUNED, "--use_frame_fea", "--top_frames", "2")
    flags = (
        "--max_frames",
        "12",
        "--use_temp",
        "--use_frame_fea",
        "--language",
        "english",
        "--dataset",
        "msrvtt",
    )
    _, remarks = parse("--do_eval", "--init_model", model, *flags, "--top_frames", "2", "--clip_model", "toy")
    assert remarks == []


def test_a_training_takes_over_the_network_and_nothing_else(tmp_path: Path) -> None:
    before = ("--do_pretrain", "--dataset", "chvtt", "--language", "english", "--use_temp", "--use_frame_fea")
    more = ("--max_frames", "6", "--clip_model", "toy", "--max_words", "20")
    model = trained(tmp_path, *before, *more, program="main_pretrain.py")
    train = ("--do_train", "--dataset", "msrvtt", "--init_model", model, "--coef_lr", "1e-3")
    config, remarks = parse(*train)
    assert (config.clip_model, config.language, config.use_temp) == ("toy", "english", True)
    assert (config.max_frames, config.use_frame_fea, config.max_words) == (12, False, None)
    assert warnings(remarks) == []
    config, remarks = parse(*train, "--no-use_temp")
    assert config.use_temp is False and len(warnings(remarks)) == 1
    # Without --dataset an evaluation uses the data set that the pre-training is tested on.
    assert parse("--do_eval", "--init_model", model)[0].dataset == "msrvtt"


def test_off_in_the_file_is_no_word_of_the_user(tmp_path: Path) -> None:
    """The file may be of an evaluation that forgot --use_temp: the weights decide (engine/model_setup.py)."""
    model = trained(tmp_path, "--do_eval", "--dataset", "msrvtt", "--language", "english")
    config, remarks = parse("--do_eval", "--init_model", model)
    assert config.use_temp is None and "settings of an evaluation" in warnings(remarks)[0]
    assert parse("--do_eval", "--init_model", model, "--no-use_temp")[0].use_temp is False


def test_files_that_hold_no_settings(tmp_path: Path) -> None:
    model = trained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")  # of transformers
    config, remarks = parse("--do_eval", "--init_model", model)
    assert config.clip_model == Config().clip_model and remarks == []
    (tmp_path / "config.json").unlink()
    assert parse("--do_eval", "--init_model", model)[1] == []
    for content, problem in (("{", "line 1: is not JSON"), ('"x"', "must be a JSON object")):
        (tmp_path / "config.json").write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=f"config.json.*{problem}"):
            parse("--do_eval", "--init_model", model)
    trained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**saved, "max_frames": "6"}), encoding="utf-8")
    with pytest.raises(UserError, match=r"config\.json: max_frames is '6', it must be a whole number"):
        parse("--do_eval", "--init_model", model)


@pytest.mark.parametrize(("old", "new"), [(True, "on"), (False, "off"), ("auto", "auto")])
def test_values_of_older_versions_are_read(old: bool | str, new: str, tmp_path: Path) -> None:
    """--compile had no value."""
    model = trained(tmp_path)
    path = tmp_path / "config.json"
    saved = json.loads(path.read_text(encoding="utf-8")) | {"compile": old}
    path.write_text(json.dumps(saved), encoding="utf-8")
    settings = read_saved_settings(path)
    assert settings is not None and settings["compile"] == new
    assert parse("--do_eval", "--init_model", model)[0].clip_model == "toy"
    path.write_text(json.dumps({**settings, "compile": 1.5}), encoding="utf-8")
    with pytest.raises(UserError, match=r"config\.json: compile is 1.5, it must be text"):
        read_saved_settings(path)


def test_the_published_lists_come_with_the_data_set(tmp_path: Path) -> None:
    model = trained(tmp_path, *FINE_TUNED, "--split", "full")
    config, remarks = parse("--do_eval", "--init_model", model)
    assert config.split == "full" and any("--split full" in remark.text for remark in remarks)
    config, _ = parse("--do_eval", "--init_model", model, "--split", "7k")
    assert config.split == "7k"
    config, _ = parse("--do_eval", "--init_model", model, "--dataset", "vatex")
    assert config.split is None
