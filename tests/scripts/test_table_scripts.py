"""The scripts of the published tables: every command they print is one that the programs take."""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from engine.config import Config
from engine.config_checks import parse_and_check
from tools.results.published import load_published

ROOT = Path(__file__).resolve().parents[2]
ROWS = load_published().rows
PRETRAINING = ("pretrain_chvtt_chinese", "pretrain_chvtt_english")
RECIPES = tuple(path.stem for path in sorted((ROOT / "scripts").glob("recipe_*.sh")))
SCRIPTS = (*PRETRAINING, *dict.fromkeys((*ROWS, *RECIPES)))
PUBLISHED_MODELS = ("msrvtt", "vatex_english", "vatex_chinese")
VARIABLES = ("NPROC", "NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "DATA_DIR", "HMMC_DATA")
VARIABLES += ("OUTPUT_DIR", "INIT_MODEL", "PYTHON")

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def call(
    script: str, *arguments: str, cwd: Path = ROOT, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return subprocess.run(
        ["bash", str(ROOT / "scripts" / f"{script}.sh"), *arguments],
        env={**environment, **variables},
        cwd=cwd,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=30,
    )


def printed_command(script: str, *arguments: str, **variables: str) -> list[str]:
    done = call(script, "--dry-run", *arguments, **variables)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    return shlex.split(line)


def parsed(command: list[str]) -> Config:
    """The settings that the program in `command` would have; nothing it is given may be without effect."""
    (position,) = [i for i, word in enumerate(command) if word.startswith("main_")]
    config, remarks = parse_and_check(command[position + 1 :], program=command[position])
    assert remarks == []
    return config


def settings(config: Config, names: Mapping[str, object]) -> dict[str, object]:
    return {name: getattr(config, name) for name in names}


@pytest.mark.parametrize("row_id", ROWS)
def test_each_row_runs_as_published(row_id: str) -> None:
    row, config = ROWS[row_id], parsed(printed_command(row_id))
    zero_shot = row.table == "zero-shot"
    assert (config.do_eval, config.do_train) == (zero_shot, not zero_shot)
    assert (config.test_dataset, config.language) == (row.dataset, row.language)
    assert (config.init_model is not None) == row.pretrained
    assert config.output_dir == f"ckpts/{row_id}" and config.data_dir == "data"
    trained_by = config
    if row.pretrained:
        script = f"pretrain_chvtt_{row.language}"
        pretraining = parsed(printed_command(script))
        # It starts from what the pre-training script leaves after one of its epochs.
        names = [f"ckpts/{script}/pytorch_model.bin.{epoch}" for epoch in range(pretraining.epochs)]
        assert config.init_model in names
        trained_by = pretraining if zero_shot else config
    known = {**settings(trained_by, row.settings), **settings(config, {"top_frames": 0, "max_frames": 0})}
    assert {name: known[name] for name in row.settings} == dict(row.settings)


@pytest.mark.parametrize("script", RECIPES)
def test_recipes_run_and_say_so_if_they_have_no_published_figures(script: str) -> None:
    config = parsed(printed_command(script))
    assert config.do_train and config.init_model is None and config.output_dir == f"ckpts/{script}"
    assert config.dataset == script.split("_")[1] and config.head in (*script.split("_"), "xpool")
    # The choice by the test list is only for the published way.
    assert (config.select_on == "test") == (script in ROWS)
    assert ("We have not run it" in call(script, "--help").stdout) == (script not in ROWS)


def test_pretraining_as_published() -> None:
    chinese, english = (parsed(printed_command(script)) for script in PRETRAINING)
    for config, language in ((chinese, "chinese"), (english, "english")):
        assert config.do_pretrain and (config.dataset, config.language) == ("chvtt", language)
        assert (config.batch_size, config.contrast_num_negative, config.contrast_momentum) == (
            128,
            1024,
            0.99,
        )
        assert (config.lr, config.coef_lr, config.weight_decay) == (1e-4, 1e-3, 0.05)
    assert (chinese.epochs, chinese.text_lr, chinese.n_display) == (11, 1e-4, 596)
    weights = [(c.weight_FAM, c.weight_VTM, c.weight_FTM, c.weight_MLM) for c in (chinese, english)]
    assert weights == [(0.05, 0.45, 0.45, 0.05), (0, 0.45, 0.45, 0)]


@pytest.mark.parametrize("model", PUBLISHED_MODELS)
def test_published_checkpoints(model: str) -> None:
    config = parsed(printed_command("evaluate_published", model, INIT_MODEL="x.bin"))
    assert config.do_eval and config.init_model == "x.bin"
    assert config.legacy_special_tokens == (model == "vatex_chinese")
    assert config.top_frames == parsed(printed_command(f"finetune_{model}_pretrained")).top_frames
    assert "set INIT_MODEL" in call("evaluate_published", model).stderr
    assert "give msrvtt, vatex_english or vatex_chinese" in call("evaluate_published").stderr


def test_launchers() -> None:
    assert printed_command("finetune_msrvtt", NPROC="1", PYTHON="py")[:2] == ["py", "main_task_retrieval.py"]
    assert printed_command("zero_shot_msrvtt", PYTHON="py")[:2] == ["py", "main_task_retrieval.py"]
    # A free port, so that two runs on one machine do not meet.
    torchrun = ["py", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "8"]
    assert printed_command("finetune_msrvtt", PYTHON="py")[:7] == [*torchrun, "main_task_retrieval.py"]
    with_port = printed_command("finetune_msrvtt", PYTHON="py", MASTER_PORT="123")
    assert "--standalone" not in with_port and with_port[11:13] == ["--master_port", "123"]
    nodes = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "first", "MASTER_PORT": "12345", "NPROC": "4"}
    command = printed_command("pretrain_chvtt_chinese", **nodes)
    flags = dict(zip(command[3:13:2], command[4:14:2], strict=True))
    assert flags == {
        "--nproc_per_node": "4",
        "--nnodes": "2",
        "--node_rank": "1",
        "--master_addr": "first",
        "--master_port": "12345",
    }


def test_variables_and_further_flags() -> None:
    command = printed_command(
        "finetune_msrvtt_pretrained",
        *("--seed", "7", "--batch_size", "64"),
        DATA_DIR="/my data",
        OUTPUT_DIR="out dir/$x",
        INIT_MODEL="it's.bin",
    )
    config = parsed(command)
    assert (config.data_dir, config.output_dir, config.init_model) == ("/my data", "out dir/$x", "it's.bin")
    assert (config.seed, config.batch_size) == (7, 64)
    assert parsed(printed_command("finetune_msrvtt", HMMC_DATA="/there")).data_dir == "/there"


def test_what_runs_is_what_dry_run_prints(tmp_path: Path) -> None:
    (tmp_path / "m.bin").touch()
    stub = tmp_path / "python"
    stub.write_text('#!/bin/sh\nprintf "%s\\n" "$0" "$@"\n', encoding="utf-8")
    stub.chmod(0o755)
    variables = {"PYTHON": str(stub), "INIT_MODEL": str(tmp_path / "m.bin"), "OUTPUT_DIR": "a b"}
    done = call("finetune_msrvtt_pretrained", cwd=tmp_path, **variables)
    assert done.stdout.splitlines() == printed_command("finetune_msrvtt_pretrained", **variables)


@pytest.mark.parametrize("ignored", [False, True])
def test_torchrun_hands_on_the_signals_at_which_ranks_save(ignored: bool, tmp_path: Path) -> None:
    """Under nohup SIGHUP is ignored, and torchrun must leave it so."""
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc")
    python = tmp_path / "python"
    python.write_text("#!/usr/bin/env bash\necho $PET_SIGNALS_TO_HANDLE\n", encoding="utf-8")
    python.chmod(0o700)
    done = subprocess.run(
        [*(["nohup"] if ignored else []), "bash", "scripts/finetune_msrvtt.sh"],
        env={**os.environ, "PYTHON": str(python)},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    expected = {"SIGTERM", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGHUP"} - ({"SIGHUP"} if ignored else set())
    assert set(done.stdout.strip().split(",")) == expected


def test_tasks_of_srun_that_would_each_start_a_launcher_are_refused() -> None:
    done = call("finetune_msrvtt", SLURM_STEP_NUM_TASKS="8")
    assert done.returncode == 2 and "srun starts 8 tasks" in done.stderr and "NPROC=1" in done.stderr
    assert call("finetune_msrvtt", "--dry-run", SLURM_STEP_NUM_TASKS="8", NPROC="1").returncode == 0


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"NPROC": "0"}, "NPROC=0: must be"),
        ({"NPROC": "two"}, "NPROC=two: must be"),
        ({"NNODES": "2"}, "also set NODE_RANK and MASTER_ADDR"),
        ({"NNODES": "2", "NODE_RANK": "1"}, "also set NODE_RANK and MASTER_ADDR"),
        ({"INIT_MODEL": "absent.bin"}, "absent.bin: no such file; run scripts/pretrain_chvtt_english.sh"),
    ],
)
def test_wrong_variables_are_refused_in_one_line(variables: dict[str, str], words: str) -> None:
    script = "finetune_msrvtt_pretrained" if "INIT_MODEL" in variables else "finetune_msrvtt"
    done = call(script, PYTHON="false", **variables)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("script", [*SCRIPTS, "evaluate_published"])
def test_help_explains(script: str) -> None:
    done = call(script, "--help")
    assert done.returncode == 0 and done.stderr == ""
    own, _, shared = done.stdout.partition("\n\n")
    assert re.match(r"(Pre-train|Fine-tune|Zero-shot|Evaluate) ", own)
    assert "--dry-run" in shared and "source" not in done.stdout
    assert all(name in shared for name in VARIABLES)


@pytest.mark.parametrize(
    ("document", "scripts"), [("scripts/README.md", SCRIPTS), ("docs/REPRODUCE.md", (*PRETRAINING, *ROWS))]
)
def test_documents_name_existing_scripts_and_all_of_them(document: str, scripts: tuple[str, ...]) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    named = set(re.findall(r"\b([a-z0-9_]+)\.sh\b", text))
    assert named >= {*scripts, "evaluate_published"}
    existing = {path.stem for path in (ROOT / "scripts").rglob("*.sh")}
    assert named <= existing


def test_documents_carry_the_published_figures() -> None:
    text = (ROOT / "docs/REPRODUCE.md").read_text(encoding="utf-8")
    for row in ROWS.values():
        for direction in ("t2v", "v2t"):
            figures = [value for name, value in row.figures.items() if name.startswith(direction)]
            cells = " | ".join("n/a" if math.isnan(value) else f"{value:.1f}" for value in figures)
            assert f"| {cells} |" in text, (row.id, direction)
