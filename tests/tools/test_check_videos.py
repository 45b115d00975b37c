"""The data doctor on a folder of videos, for training without a frame store."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.tools.test_check_data import msrvtt
from tests.video import fixtures
from tools.check_data import main


def test_a_folder_of_videos_is_checked_like_a_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    msrvtt(tmp_path, train=("v0", "v1", "v2"), test=("v8", "v9"))
    trained, tested = tmp_path / "trained", tmp_path / "tested"
    trained.mkdir()
    tested.mkdir()
    fixtures.write_video(trained / "v0.mp4", frames=30)
    fixtures.write_video(trained / "v1.mp4", frames=25)
    fixtures.write_video(tested / "v8.mp4", frames=20)
    (trained / "v2.mp4").write_bytes((trained / "v0.mp4").read_bytes()[:900])
    shutil.copy(trained / "v1.mp4", tested / "v9.mp4")
    flags = ["--dataset", "msrvtt", "--data_dir", str(tmp_path), "--video_dir", str(trained)]
    assert main([*flags, "--eval_video_dir", str(tested)]) == 1
    report = capsys.readouterr().out
    assert "video folder" in report and "of 3 of 3 videos" in report
    assert "videos with missing frames or incomplete JPEGs: 1" in report and "unopenable" in report
    assert "pairs of videos with the same frames: 1 (v9 = v1)" in report
    assert main([*flags, "--eval_store", str(tmp_path / "none")]) == 1
    report = capsys.readouterr().out
    assert "no such folder or file" in report
    assert main(flags) == 1
    assert "videos absent from the video folder: 2 of 2 (v8, v9)" in capsys.readouterr().out
