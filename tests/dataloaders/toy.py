"""Small examples, tokenizers and frame stores for the tests of this package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dataloaders.examples import Examples, ExamplesBuilder
from dataloaders.frame_store.jpeg import Excess
from dataloaders.frame_store.reader import FrameStoreError
from dataloaders.frame_store.writer import FrameStoreWriter
from modules.backbones.tokenizers import frame_ids

REALDATA = Path(__file__).resolve().parents[3] / "shared" / "realdata"


class WordTokenizer:
    """One id per word, computed from its letters: quick, and equal in every process."""

    source = "--pretrained_text some/words"
    vocab_size = 1000
    unknown_ids = (996,)  # the word "?"
    special_counts = (1, 1)
    start_token_id, end_token_id, mask_token_id = 998, 999, 997
    special_ids = (998, 999)

    def encode(self, text: str, max_words: int) -> tuple[np.ndarray, np.ndarray, bool]:
        tokens = [996 if word == "?" else 1 + sum(word.encode()) % 900 for word in text.split()]
        return frame_ids(tokens, max_words=max_words, start=self.start_token_id, end=self.end_token_id)


class ListStore:
    """A frame store in memory: {video id: number of frames}. The grey of a picture is its frame number."""

    path = "list-store"

    def __init__(self, frames: dict[str, int], *, unreadable: Sequence[str] = ()) -> None:
        self._frames = frames
        self._unreadable = set(unreadable)
        self.reads: list[str] = []

    def __contains__(self, video_id: str) -> bool:
        return self.num_frames(video_id) > 0

    def missing(self, video_ids: Any) -> list[str]:
        return [video_id for video_id in video_ids if video_id not in self]

    def num_frames(self, video_id: str) -> int:
        return self._frames.get(video_id, 0)

    def iter_frames(
        self, video_id: str, indices: Sequence[int], excess: Sequence[Excess] | None = None
    ) -> list[np.ndarray]:
        self.reads.append(video_id)
        if video_id in self._unreadable:
            raise FrameStoreError(f"frame store {self.path}: video {video_id}, frame {indices[0]}: cut off")
        return [np.full((20, 24, 3), index, dtype=np.uint8) for index in indices]

    def read_jpegs(self, video_id: str, indices: Sequence[int]) -> list[bytes]:
        frames = self.iter_frames(video_id, indices)
        return [cv2.imencode(".jpg", frame)[1].tobytes() for frame in frames]


def toy_examples(
    *, videos: int, captions_each: int = 1, tags: bool = False, duration: float | None = None
) -> Examples:
    """Videos v0, v1, ... with captions "clip 0 text 0", ..."""
    builder = ExamplesBuilder()
    for video in range(videos):
        for caption in range(captions_each):
            text = f"clip {video} text {caption}"
            tag = f"tag {video}" if tags else None
            builder.add(f"v{video}", text, tag=tag, duration=duration)
    return builder.build()


def write_store(path: Path, frames: dict[str, int]) -> Path:
    """A real frame store of small noisy pictures."""
    rng = np.random.default_rng(0)
    with FrameStoreWriter(path) as writer:
        for video_id, count in frames.items():
            writer.put(video_id, [_jpeg(rng) for _ in range(count)])
    return path


def _jpeg(rng: np.random.Generator) -> bytes:
    picture = cv2.resize(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8), (32, 24))
    return cv2.imencode(".jpg", picture)[1].tobytes()


def write_lines(path: Path, records: Sequence[Any]) -> Path:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), "utf-8")
    return path


def write_json(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content, ensure_ascii=False), "utf-8")
    return path


def write_bert_vocabulary(folder: Path, words: Sequence[str] = ()) -> Path:
    """The two files of a small Chinese BERT tokenizer: five special tokens, then `words`."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join([*special, *words]) + "\n", "utf-8")
    write_json(folder / "config.json", {"model_type": "bert", "vocab_size": len(special) + len(words)})
    return folder
