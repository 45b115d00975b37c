"""Command lines: a wrong flag is reported in one line, like every other mistake of a user."""

from __future__ import annotations

import argparse
import difflib
from typing import Any, NoReturn

from common.commands import as_called
from common.errors import EXIT_USER_ERROR

_UNKNOWN = "unrecognized arguments: "


class ArgumentParser(argparse.ArgumentParser):
    """Prints no usage with an error: that of the two main programs has 68 lines, and the error comes last."""

    def __init__(self, prog: str | None = None, **settings: Any) -> None:
        super().__init__(prog and as_called(prog), **settings)

    def format_help(self) -> str:
        return as_called(super().format_help())

    def error(self, message: str) -> NoReturn:
        text = as_called(" ".join(message.split())) + self._suggestion(message)
        self.exit(EXIT_USER_ERROR, f"{self.prog}: error: {text} (--help lists the flags)\n")

    def _suggestion(self, message: str) -> str:
        """The flag that was probably meant, for an unknown one."""
        unknown = message.removeprefix(_UNKNOWN).split("=")[0].split(" ")[0]
        if not message.startswith(_UNKNOWN) or not unknown.startswith("-"):
            return ""
        near = difflib.get_close_matches(unknown, self._option_string_actions, n=1)
        return f"; is {near[0]} meant?" if near else ""
