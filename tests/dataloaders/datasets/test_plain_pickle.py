"""No pickle can run anything: whatever names an object is refused."""

import collections
import os
import pickle
from pathlib import Path

import pytest

from common.errors import UserError
from dataloaders.datasets.plain_pickle import read_plain_pickle


class Command:
    """Runs a command when it is unpickled by Python's own reader."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


def test_plain_values_of_every_protocol(tmp_path: Path) -> None:
    value = {"视频": [["a", "b"], ("c", 1, 2.5)], "x": [None, True], "z": b"bytes"}
    for protocol in range(3, pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(value, protocol=protocol))
        assert read_plain_pickle(tmp_path / "a.pkl") == value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_named_object_is_refused_and_not_called(tmp_path: Path, protocol: int) -> None:
    for value in (Command(f"touch {tmp_path / 'ran'}"), [collections.OrderedDict(a=1)]):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(value, protocol=protocol))
        with pytest.raises(UserError, match="a.pkl: is not a pickle of plain values, it names .*: save"):
            read_plain_pickle(tmp_path / "a.pkl")
    assert not (tmp_path / "ran").exists()


def test_persistent_ids_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(b"Pname\n.")
    with pytest.raises(UserError, match="names a persistent id"):
        read_plain_pickle(tmp_path / "a.pkl")


@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps({"a": [1] * 9})[:-3], b"\x80\x63.", b"0."])
def test_other_files_are_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(UserError, match="a.pkl: is "):
        read_plain_pickle(tmp_path / "a.pkl")
    with pytest.raises(UserError, match="b.pkl: no such file"):
        read_plain_pickle(tmp_path / "b.pkl")
