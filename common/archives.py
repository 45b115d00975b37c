"""Checksums of zip archives, the form in which torch saves weights and states."""

from __future__ import annotations

import zipfile
from pathlib import Path

_PIECE = 1 << 20  # bytes read at once


def damaged_record(path: Path) -> str | None:
    """The first record of an archive whose checksum is wrong, None if all are right.

    Records without a checksum, as `torch.serialization.set_crc32_options(False)` writes them, are not
    checked. A file that is no archive counts as damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.CRC and not _is_intact(archive, info):
                    return info.filename
    except zipfile.BadZipFile:
        return "its index"
    return None


def _is_intact(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(info) as record:
            while record.read(_PIECE):  # compares the checksum at the end
                pass
    except zipfile.BadZipFile:
        return False
    return True
