"""A wrong flag is one line, whatever the program has for flags."""

from __future__ import annotations

import pytest

from common.arguments import ArgumentParser
from engine.command_line import build_parser


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--use_tmp",), "unrecognized arguments: --use_tmp; is --use_temp meant? (--help lists the flags)"),
        (("--batchsize=4", "x"), "unrecognized arguments: --batchsize=4 x; is --batch_size meant? (--help"),
        (("--zzzz",), "unrecognized arguments: --zzzz (--help lists the flags)"),
        (("--epochs", "many"), "argument --epochs: invalid int value: 'many' (--help lists the flags)"),
        (("--language", "french"), "argument --language: invalid choice: 'french'"),
    ],
)
def test_a_wrong_flag_of_the_programs(
    argv: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = build_parser("main_pretrain.py")
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["--output_dir", "out", *argv])
    error = capsys.readouterr().err
    assert error.startswith(f"main_pretrain.py: error: {message}") and error.count("\n") == 1


def test_subcommands_report_alike(capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser(prog="tool")
    parser.add_subparsers(dest="command").add_parser("index").add_argument("--out", type=int)
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["index", "--out", "x\ny"])
    assert capsys.readouterr().err.startswith("tool index: error: argument --out: invalid int value")
