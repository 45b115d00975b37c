"""Search with every head: scores are those of the head in evaluation, from the features in the index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from modules.heads.registry import HEADS
from search import Retriever, VideoIndex, VideoIndexError, index_videos, reranking, searching
from search.clips import clip_of_file
from search.index_writer import IndexWriter
from tests.search.conftest import COLOURS, write_model

TEXT = "a red picture that gets brighter"
NAMES = [f"more/{name}.mp4" if name == "grey" else f"{name}.mp4" for name in COLOURS]


def model(folder: Path, head: str) -> Retriever:
    """A model whose head has random weights: a new X-Pool head changes little."""
    retriever = Retriever.from_checkpoint(write_model(folder / head, head=head), device="cpu")
    generator = torch.Generator().manual_seed(0)
    for weight in retriever.head.parameters():
        weight.data += 0.3 * torch.randn(weight.shape, generator=generator)
    return retriever


def of_evaluation(retriever: Retriever, videos: Path, text: dict[str, torch.Tensor]) -> dict[str, float]:
    """The head's similarity of the text with every video, from features that no index has rounded."""
    found = {}
    for name in NAMES:
        clip = clip_of_file(videos / name, frames=retriever.frames, size=retriever.image_size)
        with torch.no_grad():
            video, frames = retriever.model.encode_video(clip.frames[None])
            found[name] = float(retriever.head(text, {"video": video, "frames": frames}))
    return found


@pytest.mark.parametrize("head", HEADS)
def test_hits_have_the_scores_of_evaluation(head: str, videos: Path, tmp_path: Path) -> None:
    retriever = model(tmp_path, head)
    index_videos(retriever, tmp_path / "index", video_dir=videos, quiet=True)
    with VideoIndex(tmp_path / "index") as index:
        assert index.settings.lengths == (not retriever.head.is_of_cosines)
        hits = retriever.search(index, TEXT, top=4).hits
    with torch.no_grad():
        expected = of_evaluation(retriever, videos, retriever._text_rows([TEXT], None))
    assert [hit.video_id for hit in hits] == sorted(NAMES, key=lambda name: -expected[name])
    assert [hit.score for hit in hits] == pytest.approx([expected[h.video_id] for h in hits], abs=2e-3)


@pytest.mark.parametrize("head", ["wti", "xpool"])
def test_a_clip_is_a_text_of_one_word(head: str, videos: Path, tmp_path: Path) -> None:
    retriever = model(tmp_path, head)
    index_videos(retriever, tmp_path / "index", video_dir=videos, quiet=True)
    hits = retriever.search(tmp_path / "index", video=videos / "red.mp4", top=4).hits
    vector = torch.from_numpy(retriever.encode_video(videos / "red.mp4").video)[None]
    expected = of_evaluation(retriever, videos, {"text": vector, "words": vector[:, None]})
    assert [hit.score for hit in hits] == pytest.approx([expected[h.video_id] for h in hits], abs=2e-3)
    mixed = retriever.search(tmp_path / "index", TEXT, exclude="blue", top=4).hits
    assert len(mixed) == 4 and len(retriever.similar(tmp_path / "index", "red.mp4", top=3).hits) == 3


def test_the_head_scores_only_the_best_of_the_first_stage(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retriever = model(tmp_path, "wti")
    index_videos(retriever, tmp_path / "index", video_dir=videos, quiet=True)
    scored: list[int] = []
    score = reranking.HeadScorer.__call__

    def counted(self: reranking.HeadScorer, features: object, rows: np.ndarray) -> np.ndarray:
        scored.append(len(rows))
        return score(self, features, rows)  # type: ignore[arg-type]

    monkeypatch.setattr(reranking.HeadScorer, "__call__", counted)
    monkeypatch.setattr(reranking, "_AT_ONCE", 1)  # also in parts
    monkeypatch.setattr(searching, "RERANKED", 2)
    monkeypatch.setattr(searching, "_MORE", 0)
    retriever.search(tmp_path / "index", TEXT, top=1)
    assert scored and scored[0] == 3


def test_lengths_follow_their_videos_through_copies_and_compaction(videos: Path, tmp_path: Path) -> None:
    retriever = model(tmp_path, "xpool")
    index_videos(retriever, tmp_path / "index", video_dir=videos, quiet=True)
    before = {hit.video_id: hit.score for hit in retriever.search(tmp_path / "index", TEXT, top=4).hits}
    (videos / "copy.mp4").write_bytes((videos / "blue.mp4").read_bytes())
    index_videos(retriever, tmp_path / "index", video_dir=videos, quiet=True)
    with IndexWriter(tmp_path / "index") as writer:
        writer.remove(["red.mp4"])
        writer.compact()
        assert writer.features().lengths is not None
    hits = retriever.search(tmp_path / "index", TEXT, top=4).hits
    assert len(hits) == 3 and any(hit.copies for hit in hits)
    for hit in hits:
        name = hit.video_id if hit.video_id in before else hit.copies[0]
        assert hit.score == pytest.approx(before[name], abs=1e-5)


def test_an_index_belongs_to_its_head(videos: Path, tmp_path: Path) -> None:
    for head in ("hmmc", "mean"):  # they have the same features
        assert "head" not in Retriever.from_checkpoint(write_model(tmp_path / head, head=head)).identity
    retriever = model(tmp_path, "wti")
    index_videos(retriever, tmp_path / "index", video_dir=videos, quiet=True)
    identity = {**retriever.identity, "head": "xpool", "hash": "other"}
    with VideoIndex(tmp_path / "index") as index, pytest.raises(VideoIndexError, match="head 'wti' there"):
        index.check_model(identity)
    assert Retriever.for_index(tmp_path / "index").config.head == "wti"
    (tmp_path / "wti" / "config.json").rename(tmp_path / "elsewhere.json")
    settings = {"language": "english", "use_temp": True, "temporal_layers": 1, "max_frames": 4}
    settings |= {"clip_model": str(tmp_path / "wti" / "small_clip.json")}
    checkpoint = tmp_path / "wti" / "pytorch_model.bin.0"
    with pytest.raises(UserError, match="was trained with --head wti, not hmmc: give --head wti"):
        Retriever.from_checkpoint(checkpoint, **settings)  # type: ignore[arg-type]
    assert Retriever.from_checkpoint(checkpoint, head="wti", **settings).head.parts  # type: ignore[arg-type]
