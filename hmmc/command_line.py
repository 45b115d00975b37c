"""The command `hmmc NAME ...`: the same programs as the scripts of a checkout."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from common import commands
from common.arguments import ArgumentParser
from common.commands import COMMANDS
from hmmc import __version__


def build_parser() -> argparse.ArgumentParser:
    """Of the first argument: which program, or a question on them all."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{command.summary}" for name, command in COMMANDS.items()]
    parser = ArgumentParser(
        prog="hmmc",
        usage="hmmc COMMAND ...",
        description="Text-video retrieval: train models, evaluate them, search videos.",
        epilog="\n".join(["commands (hmmc COMMAND --help says more):", *lines]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"hmmc {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="what to do")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `hmmc` on `argv`; returns the exit code of the program."""
    given = sys.argv[1:] if argv is None else list(argv)
    commands.running = build_parser().parse_args(given[:1] or ["--help"]).command
    command = COMMANDS[commands.running]
    program = importlib.import_module(command.module)
    code: int = program.main(command.arguments(given[1:]))
    return code


def run() -> NoReturn:
    """Run `hmmc` on the command line of this process, and end it."""
    if not (len(sys.argv) > 1 and sys.argv[1] in COMMANDS and COMMANDS[sys.argv[1]].is_run):
        import common.early_interrupt  # noqa: F401  (Ctrl-C during the imports that follow)

        sys.exit(main())
    code = main()  # handles signals by itself
    from engine.program import end_process

    end_process(code)
