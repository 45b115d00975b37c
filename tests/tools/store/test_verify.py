"""verify: the same findings with any number of processes; no damage ends it without a message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import pytest

from dataloaders.frame_store.format import METADATA_FILE, video_key
from dataloaders.frame_store.writer import FrameStoreWriter
from tests.dataloaders.frame_store.damage import damage_leaf, damage_size
from tools import frame2lmdb

FRAMES = 6
VIDEOS = 150  # three batches


def jpeg(value: int) -> bytes:
    return cv2.imencode(".jpg", np.full((24, 32, 3), value, np.uint8))[1].tobytes()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with FrameStoreWriter(tmp_path / "s", settings={"quality": 95}) as writer:
        for number in range(VIDEOS):
            writer.put(f"v{number:03d}", [jpeg(20 * index) for index in range(FRAMES)])
    return tmp_path / "s"


def verify(store: Path, capsys: Any, *flags: str) -> tuple[int, list[str]]:
    code = frame2lmdb.main(["verify", str(store), *flags])
    return code, capsys.readouterr().out.splitlines()


def spoil(store: Path, *keys: bytes) -> None:
    with lmdb.open(str(store), map_size=1 << 26) as env, env.begin(write=True) as txn:
        for key in keys:
            assert txn.put(key, b"")


def test_findings_do_not_depend_on_the_workers(store: Path, capsys: Any) -> None:
    assert verify(store, capsys, "--num_workers", "2") == (0, [f"{VIDEOS} videos checked, 0 faults"])
    spoil(store, b"v149_0", b"v003_5", b"v070_2", b"v003_1")
    one, two = (verify(store, capsys, "--num_workers", number) for number in ("1", "2"))
    assert one == two and one[0] == 1
    named = [(f"v{video:03d}", frame) for video, frame in ((3, 1), (3, 5), (70, 2), (149, 0))]
    wanted = [f"frame store {store}: video {name!r}, frame {i}: empty (0 bytes)" for name, i in named]
    assert one[1] == [*wanted, f"{VIDEOS} videos checked, 4 faults"]


def test_a_sample_does_not_depend_on_the_workers(store: Path, capsys: Any) -> None:
    spoil(store, *(f"v{number:03d}_1".encode() for number in range(VIDEOS)))
    one, two = (verify(store, capsys, "--sample", "70", "--num_workers", number) for number in ("1", "2"))
    assert one == two and one[1][-1] == "70 videos checked, 70 faults"
    assert verify(store, capsys, "--sample", "999")[1][-1] == f"{VIDEOS} videos checked, {VIDEOS} faults"


def test_rotten_pages_are_named_and_the_rest_is_looked_at(store: Path, capsys: Any) -> None:
    damage_leaf(store, b"v149_5")
    code, said = verify(store, capsys)
    assert code == 1 and said[-1].startswith(f"{VIDEOS} videos checked")
    assert f"frame store {store}: video 'v149', frame 5: the file is damaged" in "".join(said)
    assert not any("'v000'" in line for line in said)


def test_rotten_manifests_end_the_list_with_a_word(store: Path, capsys: Any) -> None:
    damage_leaf(store, video_key("v149"))
    code, said = verify(store, capsys)
    assert code == 1 and "the list of its videos: the file is damaged" in "".join(said)
    assert "videos before that were checked" in said[-2]


def test_damage_that_kills_the_reader_costs_one_video(store: Path, capsys: Any) -> None:
    """A size of 4 GB points past the end of the file; reading there kills the process."""
    damage_size(store, b"v070_2")
    code, said = verify(store, capsys, "--num_workers", "2")
    assert code == 1 and len(said) == 2
    assert said[0].startswith(f"frame store {store}: video 'v070'")
    assert said[1] == f"{VIDEOS} videos checked, 1 faults"


@pytest.mark.parametrize("text", ["[]", "no JSON", "{}"])
def test_metadata_of_no_form_is_a_fault(text: str, store: Path, capsys: Any) -> None:
    (store / METADATA_FILE).write_text(text, encoding="utf-8")
    code, said = verify(store, capsys)
    assert code == 1 and said[0].startswith(METADATA_FILE)


@pytest.mark.parametrize("flags", [["--sample", "0"], ["--num_workers", "0"], ["--num_workers", "x"]])
def test_numbers_that_cannot_be(flags: list[str], store: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        frame2lmdb.main(["verify", str(store), *flags])
    assert caught.value.code == 2
    assert f"must be a whole number, at least 1, not {flags[1]}" in capsys.readouterr().err
