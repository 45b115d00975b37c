"""Errors that a user can fix, and how a program ends on them.

A `UserError` is one line that names the flag, file or id and says what would be right; programs print it and
end with exit code 2, or 1 if the disk is full. They do the same when the system refuses a path (`refusal`).
Every other exception is a bug: Python prints its traceback and ends with exit code 1.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from common.commands import as_called
from common.terminal import outliving_its_terminal

EXIT_STOPPED = 1  # all input was right, but the work could not be finished
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE


FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# No bug of a program leads to these numbers: they depend on the files and rights that the user has.
_REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, *FULL_DISK)


class UserError(ValueError):
    """A wrong value, file or environment that the user can fix. The message is one line."""

    @property
    def exit_code(self) -> int:
        """What a program returns after this error."""
        return EXIT_USER_ERROR


class FileError(UserError, OSError):
    """A file that the user named cannot be read or written. `errno` is the system's number."""

    @property
    def exit_code(self) -> int:
        return EXIT_STOPPED if self.errno in FULL_DISK else EXIT_USER_ERROR


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


def refusal(error: OSError) -> FileError | None:
    """The `FileError` for a path without permission, a name that is too long or a full disk.

    None for any other error, which may be a bug.
    """
    if error.errno in FULL_DISK:
        return file_error(error.filename or "output", "cannot be written", error)
    if error.errno in _REFUSALS and error.filename:
        return file_error(error.filename, "cannot be used", error)
    return None


def first_line(error: BaseException) -> str:
    """The first line of an error's text that is not blank; the name of its type where it has no text."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip() if text else type(error).__name__


def one_line(error: BaseException) -> str:
    """The message of `error` without line breaks."""
    return " ".join(str(error).split())


def run_program(name: str, body: Callable[[], int]) -> int:
    """Run `body` as the program `name` and return the exit code.

    A `UserError` becomes one line on stderr and its exit code, Ctrl-C exit code 130. If the reader of our
    output closed it, as `head` does, no error is reported. All other exceptions pass: they are bugs.
    Characters that the terminal's encoding does not have are printed as escapes.
    """
    name = as_called(name)
    _prepare_streams()
    early = sys.modules.get(f"{__package__}.early_interrupt")
    if early is not None:
        early.restore()
    try:
        code = body()
        sys.stdout.flush()
        return code
    except UserError as error:
        return _report(name, error)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _give_up_stdout()
        return EXIT_BROKEN_PIPE
    except OSError as error:
        refused = refusal(error)
        if refused is None:
            raise
        return _report(name, refused)


def _prepare_streams() -> None:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell, as in `>&-`: no file of ours must get its number
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
            setattr(sys, name, outliving_its_terminal(stream))


def _report(name: str, error: UserError) -> int:
    try:
        sys.stdout.flush()
    except OSError:  # its disk is full, or its reader is gone
        _give_up_stdout()
    print(f"{name}: error: {as_called(one_line(error))}", file=sys.stderr)
    return error.exit_code


def _give_up_stdout() -> None:
    """Drop what stdout still holds: the interpreter flushes it at its end, which must not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
