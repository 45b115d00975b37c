"""Every ablation in its smallest form, the table of them, and the commands for the real data."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from engine.config_checks import parse_and_check
from modules.backbones import tokenizers
from tests.e2e.conftest import Toy, plain_text_bpe
from tools import run_ablations
from tools.run_ablations import PROGRAMS, VARIANTS, real_command


def test_every_variant_runs_and_has_its_row(
    toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizers, "_plain_text_bpe", plain_text_bpe)
    shared = [*toy.flags, "--batch_size", "12", "--n_display", "100"]
    argv = ["--data_dir", str(toy.data), "--out", str(tmp_path), "--", *shared]
    assert run_ablations.main(argv) == 0
    printed = capsys.readouterr().out
    for variant in VARIANTS:
        kind = "pre-trained" if variant.job == "pretrain" else "fine-tuned"
        rows = [line for line in printed.splitlines() if f"{kind}: {variant.name} " in line and "|" in line]
        assert len(rows) == 2, f"one row a direction for {variant.name}"
    assert printed.count("published: n/a") == 2
    # Once more: everything is there, nothing runs again.
    assert run_ablations.main(argv) == 0
    assert "epoch 1/1" not in capsys.readouterr().out


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.folder)
def test_the_real_command_changes_what_the_variant_says(variant: run_ablations.Variant) -> None:
    assignment, bash, script, *flags = shlex.split(real_command(variant))
    assert assignment.startswith("OUTPUT_DIR=") and bash == "bash"
    assert (Path(__file__).parents[2] / script).is_file()
    base = [
        "--output_dir",
        "out",
        "--language",
        "english",
        f"--do_{variant.job}",
        "--use_temp",
        "--use_frame_fea",
    ]
    dataset = ["--dataset", "chvtt" if variant.job == "pretrain" else "msrvtt"]
    program = PROGRAMS[variant.job]
    plain, _ = parse_and_check(
        [*base, *dataset, *run_ablations.FOUR_LOSSES, "--contrast_num_negative", "1024"], program=program
    )
    changed, _ = parse_and_check(
        [*base, *dataset, "--contrast_num_negative", "1024", *flags], program=program
    )
    assert (changed == plain) == (variant.name == "base")
