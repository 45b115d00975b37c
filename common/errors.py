"""Errors that a user can fix, and how a program ends on them.

A `UserError` is one line that names the flag, file or id and says what would be right; programs print it and
end with exit code 2. Every other exception is a bug: Python prints its traceback and ends with exit code 1.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE


class UserError(ValueError):
    """A wrong value, file or environment that the user can fix. The message is one line."""


class FileError(UserError, OSError):
    """A file that the user named cannot be read or written. `errno` is the system's number."""


def file_error(path: Path | str, problem: str, error: OSError) -> FileError:
    """The `FileError` for `error`: "{path}: {problem} ({the system's reason})"."""
    if isinstance(error, FileError):
        return error
    named = FileError(f"{path}: {problem} ({error.strerror or error})")
    named.errno = error.errno
    return named


@contextlib.contextmanager
def file_errors(path: Path | str, problem: str = "cannot be read") -> Iterator[None]:
    """Turn an `OSError` of the block into a `FileError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise file_error(path, problem, error) from error


def one_line(error: BaseException) -> str:
    """The message of `error` without line breaks."""
    return " ".join(str(error).split())


def run_program(name: str, body: Callable[[], int]) -> int:
    """Run `body` as the program `name` and return the exit code.

    A `UserError` becomes one line on stderr and exit code 2, Ctrl-C exit code 130. If the reader of our
    output closed it, as `head` does, no error is reported. All other exceptions pass: they are bugs.
    Characters that the terminal's encoding does not have are printed as escapes.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return body()
    except UserError as error:
        print(f"{name}: error: {one_line(error)}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes stdout once more at its end, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
