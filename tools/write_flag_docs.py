"""Write docs/FLAGS.md from the fields of `Config`: every flag of the two main programs.

    python tools/write_flag_docs.py [--out docs/FLAGS.md]

Run it after a flag was changed. `--out -` prints the page. Exit code: 0 done, 2 the file cannot be written.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs as a script from any folder
if __name__ == "__main__":
    import common.early_interrupt  # noqa: F401  (Ctrl-C during the imports that follow)

from common.arguments import ArgumentParser
from common.atomic_files import write_text
from common.errors import run_program
from dataloaders.datasets.registry import DATASETS
from engine.command_line import PROGRAMS, build_parser
from engine.config import Config
from engine.flags import flags_of

PAGE = Path(__file__).resolve().parents[1] / "docs" / "FLAGS.md"
INTRO = """# Flags

Written by `python tools/write_flag_docs.py` from `engine/config.py` and `engine/flags.py`. Do not edit this
page by hand.

All flags of `main_pretrain.py` and `main_task_retrieval.py`; `--help` prints the same. The two programs share
all flags. Where two defaults are given, the first is that of `main_pretrain.py`. All published flags are
accepted, with their published defaults. In `OUTPUT_DIR` a training saves its settings as `config.json`, an
evaluation as `config.eval.json`.

- A flag whose default is "on" or "off" is a switch and takes no value. `--no-NAME` switches off a flag that
  is on by default, and every switch of the group "model".
- `--batch_size` counts the clips of one optimiser step over all ranks.
- `--text_lr` is the rate of the text encoder, `--lr` times `--coef_lr` that of the image tower, `--lr`
  that of everything else.
{aliases}
"""
NOTES = {  # a line before the table of a group
    "run": "What a run writes: [RESULTS.md](RESULTS.md).",
    "data": "The files of every data set: [DATA.md](DATA.md).",
    "videos": "Training without a frame store: [DATA.md](DATA.md#without-a-store).",
    "model": "Checkpoints: [CHECKPOINTS.md](CHECKPOINTS.md). Ablations: `bash scripts/ablations.sh`.",
    "optimisation": "Memory, speed, and what changes the numbers: [SCALING.md](SCALING.md).",
    "saving and resuming": "Stop a run and resume it: [TRAINING.md](TRAINING.md).",
    "evaluation": "What is measured, and how: [EVALUATION.md](EVALUATION.md).",
}


def flag_page() -> str:
    """The whole page: the introduction, then a table for each group."""
    groups: dict[str, list[dataclasses.Field[Any]]] = {}
    for field in flags_of(Config):
        groups.setdefault(field.metadata["group"], []).append(field)
    sections = ("\n".join(_section(group, fields)) + "\n" for group, fields in groups.items())
    return "\n".join([INTRO.format(aliases=_aliases()), *sections])


def _aliases() -> str:
    names = [(alias, spec.name) for spec in DATASETS.values() for alias in spec.aliases]
    return "\n".join(f"- `--dataset {alias}` is another name for `{name}`." for alias, name in names)


def _section(group: str, fields: Sequence[dataclasses.Field[Any]]) -> Iterator[str]:
    yield f"## {group[0].upper()}{group[1:]}"
    yield ""
    if group in NOTES:
        yield from (NOTES[group], "")
    yield "| flag | default | choices | meaning |"
    yield "| --- | --- | --- | --- |"
    parsers = [build_parser(program) for program in PROGRAMS]
    for field in fields:
        names = (f"--{field.name}", *field.metadata["aliases"])
        defaults = dict.fromkeys(_default(parser.get_default(field.name)) for parser in parsers)
        cells = (
            _code(names),
            " / ".join(defaults),
            _code(field.metadata["choices"] or ()),
            field.metadata["help"].replace("|", r"\|"),
        )
        yield "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


def _code(words: Sequence[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _default(value: Any) -> str:
    if value in (None, ""):
        return ""
    return ("on" if value else "off") if isinstance(value, bool) else f"`{value}`"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit code."""
    parser = ArgumentParser(
        prog="write_flag_docs.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=PAGE, help="file to write (default: docs/FLAGS.md)")
    args = parser.parse_args(argv)
    return run_program("write_flag_docs.py", lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    write_text(args.out, flag_page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
