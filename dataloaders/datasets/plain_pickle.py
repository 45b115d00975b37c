"""Pickles that hold nothing but plain values: dicts, lists, tuples, strings, numbers, None.

A pickle can name any function of Python and call it. This reader knows no names at all, so a foreign file
can run nothing.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, NoReturn

from common.errors import FileError, UserError, file_errors
from dataloaders.datasets.files import FilePath


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> NoReturn:
        raise _NamedObjectError(f"{module}.{name}")

    def persistent_load(self, _: Any) -> NoReturn:
        raise _NamedObjectError("a persistent id")


class _NamedObjectError(pickle.UnpicklingError):
    """The pickle wants an object by its name."""


def read_plain_pickle(path: FilePath) -> Any:
    """The value in a pickle of plain values.

    Raises `UserError` that names the file if it cannot be read, is no pickle, is cut off, or names a class or
    a function, whichever it is.
    """
    if not Path(path).exists():
        raise FileError(f"{path}: no such file")
    with file_errors(str(path)), open(path, "rb") as file:
        try:
            return _PlainUnpickler(file, encoding="utf-8").load()
        except _NamedObjectError as error:
            raise UserError(
                f"{path}: is not a pickle of plain values, it names {error}; such files can run code and are "
                "not read: save it again with dicts, lists and strings only"
            ) from None
        except (pickle.UnpicklingError, EOFError, ValueError, TypeError, IndexError, KeyError) as error:
            raise UserError(f"{path}: is no pickle, or is cut off ({error})") from None
        except (AttributeError, MemoryError, OverflowError, RecursionError) as error:
            raise UserError(f"{path}: is a broken pickle ({error})") from None
