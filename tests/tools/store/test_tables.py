"""A table of captions as the list of videos: the store then holds what training asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataloaders.datasets.table import read_table
from dataloaders.frame_store.reader import FrameStore
from tests.tools.store.builds import arguments, failures
from tests.video.fixtures import read_number, write_video
from tools import frame2lmdb

pytestmark = pytest.mark.usefixtures("lone_process")


def test_the_store_of_a_table_holds_what_training_asks_for(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    (videos / "sub").mkdir(parents=True)
    write_video(videos / "talk.mp4", frames=60, rate=1)
    write_video(videos / "sub" / "cat.mov", frames=5)
    table = tmp_path / "my_data.csv"
    rows = ["talk.mp4,a,10,20", "talk.mp4,b,10,20", "talk,c,20.5,", "sub/cat.mov,d,,", "gone.mp4,e,,"]
    table.write_text("\n".join(["file,text,start,end", *rows]), encoding="utf-8")
    argv = arguments(videos, tmp_path / "s", "--json_path", str(table))
    assert frame2lmdb.main(list(map(str, argv))) == 1
    assert failures(tmp_path / "s") == {"gone": "missing"}
    asked = set(read_table(table).examples("train", "english", whole=True).video_ids)
    store = FrameStore(tmp_path / "s")
    assert set(store.missing(asked)) == {"gone"} and len(asked) == 4
    shown = {id: read_number(store.read_frames(id, [0])[0]) for id in asked - {"gone"}}
    assert shown == {"talk_000010_000020": 10, "talk_000020.500_end": 21, "sub/cat": 0}
    assert "no video gone.mp4 or gone.* in" in (tmp_path / "s" / "failures.jsonl").read_text(encoding="utf-8")
