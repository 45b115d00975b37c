"""Atomic writes: a file is written under a temporary name next to its target, then renamed.

A symbolic link stays a link: its target is replaced. Anything but a regular file (a device, a named pipe,
`/dev/fd/63`) is written directly, and `-` means standard output. Errors are `FileError`s that name the file.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from common.errors import FileError, file_error

STDOUT = "-"
SUFFIX = ".tmp"
# `errors` of `open`. Names of files need not be UTF-8: Python holds other bytes as lone surrogates. They are
# written as \udc80, the form that JSON has for them too.
ESCAPED = "backslashreplace"
_PROBLEM = "cannot be written"


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Write `text` as UTF-8. `durable`: force it to disk, so that it survives a power failure."""
    with atomic_open(path, durable=durable) as file:
        file.write(text)


def write_json(path: Path, content: Any, *, durable: bool = False) -> None:
    """Write `content` as JSON, indented by one space for each level."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n", durable=durable)


def beside(path: Path | None) -> IO[str]:
    """Where a program prints its text while `path` is written: stderr if `path` is `-`, else stdout."""
    return sys.stderr if path is not None and str(path) == STDOUT else sys.stdout


def check_target(path: Path, flag: str) -> None:
    """Raise `FileError` that names `flag` if no file can be made at `path`. For before the work."""
    if str(path) == STDOUT:
        return
    if path.is_dir():
        raise FileError(f"{flag} {path}: is a folder, give the name of a file")
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise FileError(f"{flag} {path}: the folder {folder} does not exist")


@contextlib.contextmanager
def atomic_open(
    path: Path, mode: str = "w", *, durable: bool = False, newline: str | None = None
) -> Iterator[IO]:
    """A file to write to, "w" (UTF-8) or "wb", that becomes `path` when the block ends without an error."""
    assert mode in ("w", "wb"), mode
    text: dict[str, Any] = {"encoding": "utf-8", "errors": ESCAPED, "newline": newline}
    text = text if mode == "w" else {}
    if str(path) == STDOUT:
        sys.stdout.flush()
        yield sys.stdout if mode == "w" else sys.stdout.buffer
        sys.stdout.flush()
        return
    if not _is_replaceable(path):
        with _naming(path), open(path, mode, **text) as file:
            yield file
        return
    with atomic_path(path, durable=durable) as temporary, open(temporary, mode, **text) as file:
        yield file


@contextlib.contextmanager
def atomic_path(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A temporary name for libraries that take a name and not a file; renamed to `path` when the block ends.

    The file gets the permissions of the one it replaces, else those that `open` would give. After an error
    nothing is left behind and an older file stays as it was.
    """
    if str(path) == STDOUT or not _is_replaceable(path):
        with _copied_to(path) as temporary:
            yield temporary
        return
    target = Path(os.path.realpath(path))
    temporary = target.with_name(target.name + SUFFIX)
    try:
        with _naming(path):
            mode = _permissions(target, temporary)
            yield temporary
            temporary.chmod(mode)  # some libraries let only the owner read what they write
            if durable:
                _sync(temporary)
            temporary.replace(target)
            if durable:
                sync_folder(target.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to disk, so that a rename in it survives a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_replaceable(path: Path) -> bool:
    """Whether `path` is a regular file or does not exist yet. Links are followed."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:  # it does not exist, or its folder is not accessible: opening it raises the error
        return True


def _permissions(target: Path, temporary: Path) -> int:
    """The permission bits for the new file. Creates `temporary`, so that a read-only folder fails now."""
    temporary.unlink(missing_ok=True)
    temporary.touch()
    existing = target if target.exists() else temporary
    return stat.S_IMODE(existing.stat().st_mode)


def _sync(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def _copied_to(path: Path) -> Iterator[Path]:
    """A file in a temporary folder whose content goes to a device, a pipe or stdout at the end."""
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / (path.name or "file")
        yield temporary
        with open(temporary, "rb") as source, atomic_open(path, "wb") as target:
            shutil.copyfileobj(source, target)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn an `OSError` of the block about `path` into a `FileError`. Errors about other files pass."""
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        about = str(error.filename or path)
        if os.path.realpath(about) in (os.path.realpath(path), os.path.realpath(path) + SUFFIX):
            raise file_error(path, _PROBLEM, error) from error
        raise
