"""The three command lines of the published README, as users have them, through every launcher.

Only paths and sizes are cut down; `test_published_commands_parse` takes them whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.config_checks import parse_and_check
from tests.e2e.conftest import Toy
from tests.processes import fast_python, free_port, torchrun

ROOT = Path(__file__).resolve().parents[2]
TIME_LIMIT = 240  # seconds; such a run takes about 20

PRETRAIN = """main_pretrain.py --do_pretrain --num_thread_reader=8
    --epochs=11 --batch_size=128 --n_display=596
    --contrast_num_negative 1024 --contrast_momentum 0.99
    --output_dir
    ckpts/pretrain/ablation7w_11epoch/FAM0.05_VTM0.45_FTM0.45_MLM0.05_m0.99_q1024_f30_e-7_e-4_11epoch_8GPU
    --top_frames 3 --max_frames 12 --frame_sample random --use_temp --use_frame_fea
    --lr 1e-4 --text_lr 1e-4 --coef_lr 1e-3 --batch_size_val 128 --language chinese --dataset chvtt"""
FINETUNE = """main_task_retrieval.py --do_train --num_thread_reader=8
    --epochs=5 --batch_size=256 --n_display=100
    --output_dir ckpts/msrvtt/vit32_VTM0.85_FTM0.15_cross3_frame30_256_8GPU_pretrained
    --top_frames 2 --max_frames 12 --frame_sample random --use_temp --use_frame_fea
    --lr 1e-4 --text_lr 1e-7 --coef_lr 1e-3 --batch_size_val 256
    --task retrieval --dataset msrvtt --language english
    --init_model ckpts/pretrain/english/FAM0_VTM0.45_FTM0.45_MLM0_m0.99_q1024_f30_whole/pytorch_model.bin.2"""
EVALUATE = """main_task_retrieval.py --do_eval --num_thread_reader=8 --epochs=1 --batch_size=64 --n_display=1
    --output_dir ckpts/val --max_frames 12 --frame_sample random --use_temp --use_frame_fea
    --lr 1e-4 --text_lr 3e-5 --coef_lr 8e-1 --batch_size_val 256
    --task retrieval --dataset vatex --language english
    --init_model ckpts/vatex/VTM0.85_FTM0.15_cross3_frame30_8GPU_pretrain/pytorch_model.bin.4"""


@pytest.mark.parametrize("command", [PRETRAIN, FINETUNE, EVALUATE])
def test_published_commands_parse(command: str) -> None:
    program, *argv = shlex.split(command)
    config, remarks = parse_and_check(argv, program=program)
    assert remarks == []
    assert config.max_frames == 12 and config.frame_sample == "random" and config.use_temp


def launch(
    launcher: list[str], command: str, toy: Toy, output: Path, *more: str, ranks_by: str | None = None
) -> str:
    """Run a published command on the toy data; returns what it printed, asserts that it ended well.

    The launcher starts its ranks with the Python `ranks_by`, by default the one that it is started with.
    """
    program, *flags = shlex.split(command)
    program = str(ROOT / program) if program.endswith(".py") else program
    argv = [*launcher, program, *flags, *toy.flags, "--output_dir", str(output), *more]
    # A plain C locale: files are UTF-8 wherever they are read and written (FR-28).
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    python = ranks_by or launcher[0]
    environment = {**os.environ, **locale, "CUDA_VISIBLE_DEVICES": "", "PYTHON_EXEC": python}
    process = subprocess.Popen(
        argv,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=TIME_LIMIT)
    finally:
        # The launcher's children are in its session: none outlives the test.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, printed
    return printed


def last_result(output: Path) -> dict[str, object]:
    return json.loads((output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])


def test_the_three_published_commands(toy: Toy, tmp_path: Path) -> None:
    """Pre-train by torch.distributed.launch and fine-tune by torchrun, on 2 ranks each; evaluate plainly.

    Python itself starts launchers and evaluation; scripts/quickstart.sh starts the other programs with it.
    """
    legacy = [sys.executable, "-m", "torch.distributed.launch", "--nproc_per_node=2"]
    legacy += ["--master_port", free_port()]
    printed = launch(legacy, PRETRAIN, toy, tmp_path / "pretrain", ranks_by=fast_python())
    assert "2 ranks x 2 clips" in printed
    assert last_result(tmp_path / "pretrain")["dataset"] == "vatex"

    # The fine-tuning command starts from an English model.
    english = ("--language", "english", "--weight_FAM", "0", "--weight_MLM", "0")
    assert (
        toy.run(
            "pretrain", tmp_path / "english", "--dataset", "chvtt", "--use_temp", "--use_frame_fea", *english
        )
        == 0
    )
    model = ("--init_model", str(tmp_path / "english" / "pytorch_model.bin.0"))
    launcher = torchrun(python=sys.executable)
    launch(launcher, FINETUNE, toy, tmp_path / "finetune", *model, ranks_by=fast_python())
    fine_tuned = last_result(tmp_path / "finetune")
    assert fine_tuned["dataset"] == "msrvtt" and fine_tuned["epoch"] == 0

    model = ("--init_model", str(tmp_path / "finetune" / "pytorch_model.bin.0"))
    launch([sys.executable], EVALUATE, toy, tmp_path / "val", *model, "--local_rank", "0")
    evaluated = last_result(tmp_path / "val")
    assert evaluated["dataset"] == "vatex" and evaluated["epoch"] is None


def test_two_ranks_give_the_losses_and_figures_of_one(toy: Toy, tmp_path: Path) -> None:
    flags = ("--dataset", "msrvtt", "--language", "english", "--use_temp", "--use_frame_fea")
    assert toy.run("train", tmp_path / "one", *flags) == 0
    program = "-m hmmc train"  # as the installed package is started
    # The environment alone, as `--use_env` sets it.
    launcher = [sys.executable, "-m", "torch.distributed.launch", "--use_env", "--nproc_per_node=2"]
    launch(
        [*launcher, "--master_port", free_port()],
        program,
        toy,
        tmp_path / "two",
        *flags,
        ranks_by=fast_python(),
    )

    def losses(folder: str) -> list[float]:
        log = (tmp_path / folder / "log.txt").read_text(encoding="utf-8")
        return [float(line.split(" loss ")[1].split()[0]) for line in log.splitlines() if " loss " in line]

    assert losses("two") == pytest.approx(losses("one"), rel=1e-3)
    one, two = last_result(tmp_path / "one"), last_result(tmp_path / "two")
    ranks = {name: value for name, value in one.items() if "/" in name}
    assert {name: two[name] for name in ranks} == pytest.approx(ranks, rel=1e-3)
