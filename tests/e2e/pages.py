"""The commands that pages of the documentation print."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PROGRAM = re.compile(r"(?:python|torchrun [-\w= ]*?) ?((?:tools/)?\w+\.py) (.*)")


def commands(page: str, *, heading: str = "") -> list[tuple[str, list[str]]]:
    """(program, arguments) of the commands in the blocks of a page, or those below one heading."""
    text = (ROOT / page).read_text(encoding="utf-8")
    if heading:
        text = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
        assert text, f"{page} has no heading {heading!r}"
    found = []
    for block in re.findall(r"```\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if match := _PROGRAM.match(line):
                found.append((match[1], shlex.split(match[2], comments=True)))
    return found
