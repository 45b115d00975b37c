"""Addresses of shards: lists in braces, folders, several sources; files opened through fsspec.

    data/{000000..000123}.tar     https://host/{a,b}-{0..9}.tar     s3://bucket/folder/     data/*.tar

No address is given to a shell: `pipe:` is refused.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

from common.errors import UserError, one_line

SEPARATOR = "::"  # between sources, as in open_clip
MOST_SHARDS = 10_000_000
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_PROTOCOL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_EXTRAS = {"s3": "s3fs", "s3a": "s3fs", "http": "aiohttp", "https": "aiohttp", "gs": "gcsfs", "gcs": "gcsfs"}
_COMPRESSED = (".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")


def split_sources(text: str) -> list[str]:
    """The sources of `--shards`. Raises `UserError` for an empty one."""
    sources = [source.strip() for source in text.split(SEPARATOR)]
    if not all(sources):
        raise UserError(f"--shards {text}: a source is empty; write SOURCE or SOURCE{SEPARATOR}SOURCE")
    return sources


def expand_braces(text: str) -> list[str]:
    """`{00..12}` and `{a,b}` -> each address, in order. Numbers keep their width: {08..10} is 08, 09, 10.

    Raises `UserError` for an unclosed brace, a range that ends before it starts, or too many addresses.
    """
    parts = _BRACES.split(text)
    if any(brace in part for part in parts[::2] for brace in "{}"):
        raise UserError(f"--shards {text}: a brace is not closed, or stands in another one")
    choices = [[part] if place % 2 == 0 else _choices(part, text) for place, part in enumerate(parts)]
    count = 1
    for group in choices:
        count *= len(group)
    if count > MOST_SHARDS:
        raise UserError(f"--shards {text}: {count:,} shards, at most {MOST_SHARDS:,} are read")
    return ["".join(one) for one in itertools.product(*choices)]


def _choices(inside: str, text: str) -> list[str]:
    numbers = _RANGE.fullmatch(inside)
    if numbers is None:
        if "," not in inside:
            raise UserError(f"--shards {text}: {{{inside}}} is neither {{000..123}} nor {{a,b}}")
        return inside.split(",")
    first, last = numbers[1], numbers[2]
    if int(last) < int(first):
        raise UserError(f"--shards {text}: {{{inside}}} ends before it starts")
    if int(last) - int(first) >= MOST_SHARDS:
        raise UserError(f"--shards {text}: {{{inside}}} are more than {MOST_SHARDS:,} shards")
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]


def shard_addresses(source: str) -> list[str]:
    """The addresses of one source: a list in braces, a pattern with `*`, or a folder with `*.tar` in it.

    Raises `UserError` where there is no shard, or where the address cannot be read.
    """
    if source.startswith("pipe:"):
        raise UserError(f"--shards {source}: no shell command is run; give the address itself, as s3://...")
    if source.endswith(_COMPRESSED):
        raise UserError(f"--shards {source}: compressed shards are not read; unpack them to .tar")
    if "{" in source or "}" in source:
        return [address for part in expand_braces(source) for address in shard_addresses(part)]
    if "*" not in source and source.endswith(".tar"):
        return [source]
    pattern = source if "*" in source else f"{source.rstrip('/')}/*.tar"
    found = _glob(pattern, source)
    if not found:
        raise UserError(f"--shards {source}: no shard; give a list as DIR/{{000000..000123}}.tar")
    return found


def _glob(pattern: str, source: str) -> list[str]:
    if not is_remote(pattern):
        folder = Path(pattern).expanduser()
        return sorted(str(path) for path in folder.parent.glob(folder.name))
    system, path = file_system(pattern)
    try:
        return sorted(system.unstrip_protocol(name) for name in system.glob(path))
    except Exception as error:
        raise UserError(
            f"--shards {source}: cannot be listed ({one_line(error)}); give a list in braces"
        ) from None


def is_remote(address: str) -> bool:
    """Whether an address has a protocol (`s3://`), so that it is no local path."""
    return _PROTOCOL.match(address) is not None


def folder_and_name(address: str) -> tuple[str, str]:
    """("s3://bucket/a", "000.tar") of "s3://bucket/a/000.tar"; without a query (`?token=`)."""
    folder, _, name = (address.partition("?")[0] if is_remote(address) else address).rpartition("/")
    return folder, name


def file_system(address: str, **options: Any) -> tuple[Any, str]:
    """fsspec's file system of an address, and the path in it. Options of a protocol: fsspec's own settings.

    Raises `UserError` where fsspec does not know the protocol, or the package for it is missing.
    """
    import fsspec  # a tenth of a second, for those who read from shards

    protocol = address.partition("://")[0].lower() if is_remote(address) else "file"
    try:
        system, path = fsspec.core.url_to_fs(address, **options)
    except ImportError as error:
        package = _EXTRAS.get(protocol, "its package of fsspec")
        raise UserError(
            f"--shards {address}: {protocol}:// needs {package}: pip install {package}"
        ) from error
    except ValueError as error:
        raise UserError(f"--shards {address}: {one_line(error)}") from error
    return system, path
