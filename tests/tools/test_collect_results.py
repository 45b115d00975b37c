"""tools/collect_results.py: which row a folder belongs to, which epoch counts, and what is printed."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoint.states import PARTS, state_path, write_state
from engine.config_checks import parse_and_check
from tools.collect_results import main
from tools.results.published import COLUMNS, DIRECTIONS, load_published
from tools.results.run_folders import read_run, read_run_settings

PUBLISHED = load_published()
MODEL = "--use_temp --use_frame_fea --max_frames 12"
MSRVTT = (
    f"{MODEL} --dataset msrvtt --language english --frame_sample random --top_frames 2 --epochs 5 "
    "--batch_size 256 --text_lr 1e-7 --coef_lr 1e-3"
)
PRETRAIN = (
    f"{MODEL} --do_pretrain --dataset chvtt --language english --contrast_num_negative 1024 "
    "--weight_FAM 0 --weight_MLM 0"
)
SIZES = {"msrvtt": (1000, 1000), "vatex": (1500, 15000)}


def write_run(
    folder: Path, flags: str, *r_at_1: float, dataset: str = "msrvtt", captions: int | None = None
) -> Path:
    """An output folder whose evaluations, one per epoch, differ in t2v/R@1; all other metrics are 50."""
    folder.mkdir(parents=True)
    program = "main_pretrain.py" if "--do_pretrain" in flags else "main_task_retrieval.py"
    config, _ = parse_and_check([*flags.split(), "--output_dir", str(folder)], program=program)
    config.save(folder / "config.json")
    add_evaluations(
        folder,
        *r_at_1,
        training=config.is_training,
        dataset=dataset,
        language=config.language,
        captions=captions,
    )
    return folder


def add_evaluations(
    folder: Path,
    *r_at_1: float,
    training: bool,
    dataset: str = "msrvtt",
    language: str = "english",
    captions: int | None = None,
    first_epoch: int = 0,
) -> None:
    videos, expected = SIZES[dataset]
    with open(folder / "metrics.jsonl", "a", encoding="utf-8") as file:
        for epoch, value in enumerate(r_at_1, start=first_epoch):
            entry: dict[str, Any] = {f"{d}/{c}": 50.0 for d in DIRECTIONS for c in COLUMNS}
            entry |= {"t2v/R@1": value, "epoch": epoch if training else None, "comparable": True}
            entry |= {"dataset": dataset, "language": language}
            entry |= {"videos": videos, "captions": captions or expected}
            file.write(json.dumps(entry) + "\n")


def collect(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    code = main([str(item) for item in argv])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def records(capsys: pytest.CaptureFixture[str], *argv: object) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(collect(capsys, *argv, "--format", "csv"))))


def measured(capsys: pytest.CaptureFixture[str], *argv: object) -> dict[str, float]:
    """t2v/R@1 of every row that has a measured figure."""
    return {
        r["row"]: float(r["R@1"])
        for r in records(capsys, *argv)
        if r["figures"] == "measured" and r["direction"] == "t2v"
    }


EVALUATION = '{"epoch": %s, "dataset": %s, "language": "english"}\n'


def refused(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    assert main([str(item) for item in argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("collect_results.py: error: ") and captured.err.count("\n") == 1
    return captured.err


def test_published_rows_have_all_figures_in_range() -> None:
    assert len(PUBLISHED.rows) == 12
    for row in PUBLISHED.rows.values():
        assert len(row.figures) == 10
        known = [column for column in COLUMNS if not math.isnan(row.figures[f"t2v/{column}"])]
        assert known == (["R@1"] if row.source == "X-Pool" else list(COLUMNS)), row.id
        for direction in () if row.source == "X-Pool" else DIRECTIONS:
            one, five, ten, median, mean = (row.figures[f"{direction}/{column}"] for column in COLUMNS)
            assert 0 < one < five < ten < 100 and 1 <= median <= mean
    # Two cells from different ends of the published README.
    assert PUBLISHED.rows["finetune_msrvtt_pretrained"].figures["t2v/R@1"] == 47.8
    assert PUBLISHED.rows["zero_shot_vatex_chinese"].figures["v2t/MeanR"] == 18.1


def test_no_folder_prints_the_published_tables(capsys: pytest.CaptureFixture[str]) -> None:
    printed = collect(capsys)
    assert printed.count("| published |") == 24 and "measured (" not in printed
    assert "10.1109/TIP.2023.3275071" in printed
    assert "| X-Pool | MSR-VTT | published | 46.9 | n/a | n/a | n/a | n/a |" in printed
    assert "- Published, X-Pool: README and config/all_config.py of github.com/layer6ai-labs/xpool" in printed


def test_runs_with_another_head_have_rows_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token_wise = (
        "--do_train --dataset msrvtt --language english --use_temp --head wti --head_padding published "
        "--epochs 5 --batch_size 128 --text_lr 1e-7 --coef_lr 1e-3"
    )
    runs = [
        write_run(tmp_path / "a", token_wise, 46.0),
        write_run(tmp_path / "b", f"--do_train {MSRVTT}", 47.0),
    ]
    settings = json.loads((runs[1] / "config.json").read_text(encoding="utf-8"))
    del settings["head"]  # a run of an older version
    (runs[1] / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    assert measured(capsys, *runs) == {"recipe_msrvtt_wti_b32": 46.0, "finetune_msrvtt": 47.0}
    other = write_run(tmp_path / "c", token_wise.replace("128", "64"), 40.0)
    assert "not as published for recipe_msrvtt_wti_b32: batch_size 64 (published: 128)" in refused(
        capsys, other
    )


def test_rows_are_found_from_the_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vatex = f"--do_train {MODEL} --dataset vatex"
    pretrained = write_run(tmp_path / "pretrain", PRETRAIN, 30.0, 31.0) / "pytorch_model.bin.1"
    folders = [
        write_run(tmp_path / "a", f"--do_train {MSRVTT}", 46.0),
        write_run(tmp_path / "b", f"--do_train {MSRVTT} --init_model {pretrained}", 47.0),
        write_run(tmp_path / "c", f"{vatex} --language english", 61.0, dataset="vatex"),
        write_run(
            tmp_path / "d", f"{vatex} --language chinese --init_model elsewhere.bin", 54.0, dataset="vatex"
        ),
        write_run(
            tmp_path / "e",
            f"--do_eval {MODEL} --dataset vatex --language english --init_model {pretrained}",
            40.0,
            dataset="vatex",
        ),
        pretrained.parent,
    ]
    assert measured(capsys, *folders) == {
        "zero_shot_msrvtt": 31.0,
        "zero_shot_vatex_english": 40.0,
        "finetune_msrvtt": 46.0,
        "finetune_msrvtt_pretrained": 47.0,
        "finetune_vatex_english": 61.0,
        "finetune_vatex_chinese_pretrained": 54.0,
    }


def test_one_model_evaluated_twice_counts_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = write_run(tmp_path / "pretrain", PRETRAIN, 30.0, 31.0)
    flags = f"--do_eval {MODEL} --dataset msrvtt --language english"
    again = write_run(tmp_path / "again", f"{flags} --init_model {trained / 'pytorch_model.bin.0'}", 30.0)
    printed = collect(capsys, trained, again)
    assert "measured (1 run)" in printed and f"left out {trained}" in printed
    assert measured(capsys, trained, again) == {"zero_shot_msrvtt": 30.0}


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (f"--do_train {MSRVTT} --weight_FTM_finetune 0", "weight_FTM_finetune 0.0 (published: 0.15)"),
        (f"--do_train {MSRVTT} --clip_model toy", "clip_model toy"),
        (f"--do_eval {MSRVTT} --init_model downloaded.bin", "no config.json in the folder of downloaded.bin"),
        (f"--do_eval {MSRVTT}", "not trained on video"),
        (f"{PRETRAIN} --dataset msrvtt", "pre-trained on msrvtt"),
        (f"--do_train {MSRVTT} --init_model FINETUNED", "was not pre-trained on chvtt"),
        (f"--do_eval {MSRVTT} --init_model VATEX", "fine-tuned on vatex, evaluated on msrvtt"),
    ],
)
def test_a_folder_in_doubt_is_left_out_with_the_reason(
    flags: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    placed = write_run(tmp_path / "placed", f"--do_train {MSRVTT}", 46.0)
    vatex = write_run(
        tmp_path / "v", f"--do_train {MODEL} --dataset vatex --language english", 1.0, dataset="vatex"
    )
    flags = flags.replace("FINETUNED", str(placed / "m.bin.0")).replace("VATEX", str(vatex / "m.bin.0"))
    doubtful = write_run(tmp_path / "doubtful", flags, 99.0)
    printed = collect(capsys, placed, doubtful)
    assert f"left out {doubtful}: " in printed and reason in printed
    assert measured(capsys, placed, doubtful) == {"finetune_msrvtt": 46.0}
    assert reason in refused(capsys, doubtful)


def test_seeds_give_mean_deviation_and_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [
        write_run(tmp_path / str(seed), f"--do_train {MSRVTT} --seed {seed}", value)
        for seed, value in ((1, 46.0), (2, 47.0), (3, 48.0))
    ]
    found = records(capsys, "--row", f"finetune_msrvtt={folders[0]}", *folders[1:])
    ours = {r["figures"]: r for r in found if r["row"] == "finetune_msrvtt" and r["direction"] == "t2v"}
    assert float(ours["published"]["R@1"]) == 46.7
    assert float(ours["measured"]["R@1"]) == 47.0 and float(ours["measured"]["R@1 deviation"]) == 1.0
    assert float(ours["difference"]["R@1"]) == pytest.approx(0.3)
    assert float(ours["difference"]["MeanR"]) == pytest.approx(50.0 - 14.9)
    assert (ours["measured"]["runs"], ours["measured"]["seeds"]) == ("3", "3")
    printed = collect(capsys, *folders)
    assert "| measured (3 runs, 3 seeds) | 47.0 ± 1.0 |" in printed and "| +0.3 |" in printed
    assert "share a seed" not in printed
    assert "share a seed" in collect(capsys, *folders, "--row", f"finetune_msrvtt={folders[0]}")


def test_which_epoch_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "a", f"--do_train {MSRVTT}", 40.0, 46.0, 45.0)
    assert measured(capsys, folder) == {"finetune_msrvtt": 46.0}
    assert measured(capsys, folder, "--epoch", "last") == {"finetune_msrvtt": 45.0}
    assert measured(capsys, folder, "--epoch", "0") == {"finetune_msrvtt": 40.0}
    assert "epoch 2 of 3 (pytorch_model.bin.1)" in collect(capsys, folder)
    assert "Measured: epoch 1 (pytorch_model.bin.0)" in collect(capsys, folder, "--epoch", "0")
    assert "last epoch" in collect(capsys, folder, "--epoch", "last")
    error = refused(capsys, "--row", f"finetune_msrvtt={folder}", "--epoch", "7")
    assert "did not evaluate pytorch_model.bin.7, only pytorch_model.bin.0, pytorch_model.bin.1" in error
    with pytest.raises(SystemExit):
        main(["--epoch", "first"])


def add_line(folder: Path, value: float, **about: object) -> None:
    """One more evaluation: the last one of the folder, changed."""
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    entry = json.loads(lines[-1]) | {"t2v/R@1": value} | about
    path.write_text("\n".join([*lines, json.dumps(entry)]) + "\n", encoding="utf-8")


def test_the_epoch_that_the_run_chose_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "a", f"--do_train {MSRVTT} --select_on test", 40.0, 46.0, 45.0)
    add_line(folder, 46.0, epoch=1, selected_on="test", selected_epoch=1)
    assert measured(capsys, folder) == {"finetune_msrvtt": 46.0}
    assert measured(capsys, folder, "--epoch", "last") == {"finetune_msrvtt": 45.0}
    printed = collect(capsys, folder)
    assert (
        "epoch 2 of 5 (pytorch_model.bin.1; best t2v/R@1 on the test list itself)" in printed
        and "which is too optimistic" in printed
    )


def test_lines_of_other_lists_never_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "a", f"--do_train {MSRVTT}", 90.0)
    first = json.loads((folder / "metrics.jsonl").read_text(encoding="utf-8"))
    (folder / "metrics.jsonl").write_text(json.dumps(first | {"split": "held_out"}) + "\n", encoding="utf-8")
    add_line(folder, 80.0, epoch=1, split="held_out")
    assert "holds no evaluation" in refused(capsys, folder)
    add_line(folder, 44.0, epoch=0, split="test", selected_on="held_out", selected_epoch=0)
    for epoch in ("reported", "best", "last", "0"):
        assert measured(capsys, folder, "--epoch", epoch) == {"finetune_msrvtt": 44.0}
    assert "epoch 1 of 5 (pytorch_model.bin.0; chosen on held-out training videos)" in collect(capsys, folder)
    # The run is started again, so the earlier final line no longer counts.
    add_line(folder, 85.0, epoch=0, split="held_out", selected_on=None)
    path = folder / "metrics.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace('"selected_on": null, ', ""), encoding="utf-8")
    assert "holds no evaluation" in refused(capsys, folder)


def test_a_run_started_again_counts_once(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", f"--do_train {MSRVTT}", 10.0, 90.0, 91.0)
    add_evaluations(folder, 20.0, 21.0, training=True, first_epoch=1)
    add_evaluations(folder, 99.0, training=False)  # an evaluation in the same folder is not the run's
    run = read_run(folder)
    assert (run.evaluation["t2v/R@1"], run.evaluation["epoch"], run.epochs) == (21.0, 2, 3)


def test_evaluations_in_the_folder_of_a_training_are_not_its_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One checkpoint, then all of them were evaluated there; older versions replaced config.json, too."""
    folder = write_run(tmp_path / "a", f"--do_train {MSRVTT}", 40.0, 46.0, 45.0)
    add_line(folder, 45.0, epoch=2, job="train", selected_on="last", selected_epoch=2)
    for epoch in (None, 0, 1, 2):
        add_line(folder, 99.0, epoch=epoch, job="eval")
    evaluation, _ = parse_and_check(
        ["--do_eval", *MSRVTT.split(), "--output_dir", str(folder), "--init_model", str(folder)],
        program="main_task_retrieval.py",
    )
    evaluation.save(folder / "config.eval.json")
    for epoch, value in (("last", 45.0), ("reported", 45.0), ("best", 46.0), ("1", 46.0)):
        assert measured(capsys, folder, "--epoch", epoch) == {"finetune_msrvtt": value}

    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    evaluation.save(folder / "config.json")
    parts: dict[str, Any] = dict.fromkeys(PARTS, 0) | {"config": settings}
    write_state(parts, state_path(folder, 9))
    assert measured(capsys, folder, "--epoch", "last") == {"finetune_msrvtt": 45.0}
    assert read_run_settings(folder)["do_train"] is True  # watch_checkpoints.py reads it, too


def test_the_folder_of_an_evaluation_has_its_own_settings(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", f"--do_eval {MSRVTT} --init_model elsewhere.bin", 45.0)
    (folder / "config.json").rename(folder / "config.eval.json")
    assert read_run(folder).config["do_eval"] is True and read_run(folder).epochs == 0


def test_another_test_list_shows_no_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "a", f"--do_train {MSRVTT}", 60.0, captions=120)
    printed = collect(capsys, folder)
    assert "| difference |" not in printed and "not the published test list" in printed
    assert "120 captions, not 1,000" in printed


def test_an_explicit_row_names_its_differences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "a", f"--do_train {MSRVTT} --epochs 3", 45.0)
    assert "epochs 3 (published: 5)" in collect(capsys, "--row", f"finetune_msrvtt={folder}")
    error = refused(capsys, "--row", f"finetune_vatex_english={folder}")
    assert "evaluated on msrvtt english" in error
    assert "no such row" in refused(capsys, "--row", f"finetune_msr={folder}")
    assert "must be --row ROW=FOLDER" in refused(capsys, "--row", folder)


def test_own_rows_alone_print_no_published_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "a", f"--do_train {MSRVTT} --clip_model toy", 60.0, captions=120)
    other = write_run(tmp_path / "b", f"--do_eval {MSRVTT}", 1.0)
    printed = collect(capsys, "--own", f"a | b={folder}", "--own", f"untrained={other}")
    assert "| published |" not in printed and "published: n/a" in printed
    assert r"| a \| b | msrvtt (english) | measured (1 run) | 60.0 |" in printed
    both = collect(capsys, "--own", f"mine={folder}", "--row", f"finetune_msrvtt={folder}")
    assert "| published |" in both and "| mine |" in both


def test_a_bilingual_run_has_a_row_for_each_language(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(
        tmp_path / "both", "--do_train --dataset vatex --language bilingual", 30.0, dataset="vatex"
    )
    (entry,) = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    names = [name for name in entry if "/" in name]
    for language, value in (("english", 40.0), ("chinese", 20.0)):
        entry |= {f"{language}/{name}": entry[name] for name in names} | {f"{language}/t2v/R@1": value}
    entry |= {"captions": 30_000, "captions_by_language": {"english": 15_000, "chinese": 15_000}}
    (folder / "metrics.jsonl").write_text(json.dumps(entry) + "\n", encoding="utf-8")
    assert measured(capsys, "--own", f"both={folder}") == {"both, english": 40.0, "both, chinese": 20.0}
    rows = ("--row", f"finetune_vatex_english={folder}", "--row", f"finetune_vatex_chinese={folder}")
    assert measured(capsys, *rows) == {"finetune_vatex_english": 40.0, "finetune_vatex_chinese": 20.0}
    assert "a bilingual model; the published ones have one language" in refused(capsys, folder)
    with_msrvtt = refused(capsys, "--row", f"finetune_msrvtt={folder}")
    assert "evaluated on vatex english, the row is msrvtt english" in with_msrvtt


def test_latex_and_output_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [write_run(tmp_path / n, f"--do_train {MSRVTT} --seed {n}", 46.0) for n in "12"]
    out = tmp_path / "tables.tex"
    label = "50% & a_b"
    assert (
        collect(capsys, *runs, "--own", f"{label}={runs[0]}", runs[1], "--format", "latex", "--out", out)
        == ""
    )
    text = out.read_text(encoding="utf-8")
    assert text.count(r"\begin{tabular}{lllrrrrr}") == text.count(r"\end{tabular}") == 6
    assert r"50\% \& a\_b" in text and r"46.0 $\pm$ 0.0" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert all(line.replace(r"\&", "").count("&") == 7 for line in rows)
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", None, "config.json: no such file"),
        ("config.json", "{", "config.json, line 1: is not JSON"),
        ("config.json", "{}", "do_pretrain is missing"),
        ("metrics.jsonl", None, "metrics.jsonl: no such file"),
        ("metrics.jsonl", "", "holds no evaluation"),
        ("metrics.jsonl", "[1]\n", "line 1: must be a JSON object"),
        ("metrics.jsonl", '{"epoch": 0}\n', "line 1: not an evaluation"),
        (
            "metrics.jsonl",
            EVALUATION % ('"x"', '"msrvtt"'),
            "line 1: epoch is 'x', it must be a whole number",
        ),
        ("metrics.jsonl", EVALUATION % (0, "[1]"), "line 1: dataset is [1], it must be text"),
    ],
)
def test_broken_folders_are_named(
    name: str, content: str | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "a", f"--do_train {MSRVTT}", 46.0)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content, encoding="utf-8")
    assert words in refused(capsys, "--row", f"finetune_msrvtt={folder}")


def test_not_a_number_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "a", f"--do_train {MSRVTT}", float("nan"))
    assert "t2v/R@1 is nan" in refused(capsys, "--row", f"finetune_msrvtt={folder}")


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("epochs", "x", "a whole number"),
        ("epochs", None, "a whole number"),
        ("seed", [1], "a whole number"),
        ("lr", True, "a number"),
        ("init_model", 5, "text"),
        ("do_train", "yes", "true or false"),
        ("language", "klingon", "one of chinese, english"),
    ],
)
def test_settings_of_another_type_are_named(
    name: str, value: Any, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "a", f"--do_train {MSRVTT}", 46.0)
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(settings | {name: value}), encoding="utf-8")
    assert f"config.json: {name} is {value!r}, it must be {kind}" in refused(capsys, "--own", f"a={folder}")
