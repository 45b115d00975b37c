"""The bench of the method's parts: its command lines, the order of its runs, its table."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.protocol.evidence import GROUPS, PRETRAINED, PROGRAMS, Variant, chosen_runs, table
from engine.command_line import parse_config


def test_every_command_line_is_one_of_the_programs() -> None:
    runs = chosen_runs(list(GROUPS), [1, 2], Path("bench"), short=False)
    variants = {variant for rows in GROUPS.values() for variant in rows}  # groups may share a row
    assert len({run.out for run in runs}) == len(runs) == 2 * len(variants)
    for run in runs:
        config, remarks = parse_config(run.argv(), program=PROGRAMS[run.variant.job])
        assert config.seed == run.seed and config.epochs == run.variant.epochs
        assert not [remark for remark in remarks if "no effect" in str(remark)], run.variant.name


def test_what_others_start_from_is_trained_first_and_once() -> None:
    runs = chosen_runs(["100 labels"], [3], Path("bench"), short=False)
    assert [run.variant.name for run in runs] == [PRETRAINED, *(row.name for row in GROUPS["100 labels"])]
    after, _ = parse_config(runs[-1].argv(), program=PROGRAMS["train"])
    assert after.init_model == str(runs[0].out / "pytorch_model.bin.2")


def test_the_table_says_mean_range_and_interval() -> None:
    rows = [Variant(name, "train", (), 1) for name in ("first", "second")]
    first = {1: 10.0, 2: 20.0, 3: 30.0}
    results = {
        name: {seed: {"t2v/R@1": value + more * seed, "t2v/R@10": 90.0} for seed, value in first.items()}
        for name, more in (("first", 0), ("second", 2))
    }
    lines = table(rows, results)
    assert lines[2] == "| first | 20 (10 to 30) | 90 (90 to 90) |  |  |"
    # The differences 2, 4, 6 have the mean 4 and the standard deviation 2: 4.303 * 2 / sqrt(3) = 4.97.
    assert lines[3] == "| second | 24 (12 to 36) | 90 (90 to 90) | +4.0 ± 5.0 | +0.0 ± 0.0 |"


@pytest.mark.parametrize("group", GROUPS)
def test_names_are_unique_and_fit_in_a_cell(group: str) -> None:
    variants = {variant for rows in GROUPS.values() for variant in rows}
    assert len({variant.name for variant in variants}) == len(variants)
    assert all("|" not in row.name for row in GROUPS[group])
