"""Real videos, ordinary and odd, if they are beside the checkout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dataloaders.frame_store.reader import FrameStore
from tools import frame2lmdb

REAL = Path(__file__).resolve().parents[4] / "shared" / "realdata"
pytestmark = pytest.mark.skipif(
    not (REAL / "videos" / "hard").is_dir(), reason="../shared/realdata is not beside the checkout"
)

REASONS = {
    "audio_only": "no video stream",
    "avi_no_frames_1x1": "no frames",
    "flv_header_only": "unopenable, no video stream",  # as FFmpeg's version has it
    "init_segment_only": "no frames",
    "malformed_free_box_no_moov": "unopenable",
    "no_streams": "no video stream",
    "text_renamed": "unopenable",
    "truncated_1kB": "unopenable",
    "vp9_encrypted_1packet": "no frames",
    "zero_length": "unopenable",
}


def test_hard_videos_are_stored_or_named_with_their_reason(tmp_path: Path) -> None:
    """Without the long video: the benchmark decodes it."""
    folder = REAL / "videos" / "hard"
    ids = sorted(path.stem for path in folder.iterdir() if not path.name.startswith("long_"))
    names = tmp_path / "list.txt"
    names.write_text("\n".join(ids), encoding="utf-8")
    flags = ["--video_dir", folder, "--lmdb_path", tmp_path / "s", "--json_path", names, "--num_workers", "2"]
    assert frame2lmdb.main([*map(str, flags), "--num_frames", "8", "--shard", "none"]) == 1
    lines = (tmp_path / "s" / "failures.jsonl").read_text(encoding="utf-8").splitlines()
    failed = {line["video_id"]: line["reason"] for line in map(json.loads, lines)}
    store = FrameStore(tmp_path / "s")
    for name, reason in REASONS.items():
        if name in ids:
            assert failed[name] in reason, name
    assert set(store.video_ids()) == set(ids) - set(failed)
    assert frame2lmdb.main(["verify", str(tmp_path / "s")]) == 0
    listed = json.loads((REAL / "manifest.json").read_text(encoding="utf-8"))["files"]
    for entry in listed:
        video_id = Path(entry["file"]).stem
        record = store.manifest(video_id) if video_id in set(ids) else None
        if record is not None and entry.get("frames_decoded"):
            assert record["source_frames"] == entry["frames_decoded"], video_id
