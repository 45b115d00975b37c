"""What is saved by decoding and encoding each video once, instead of once for every caption.

    python benchmarks/protocol/evaluation_decoding.py [--videos 40] [--captions 10]

The data have the shape of VATEX (10 captions a video), with JPEG frames and a small model. The evaluator
reads videos and captions separately; the published code reads pairs, every caption with its clip. Reads of
the store are counted, and the ranks must be equal.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dataloaders.examples import ExamplesBuilder
from dataloaders.frame_store.jpeg import Excess
from dataloaders.loader import ShardSampler, build_loader
from dataloaders.video_text import VideoTextDataset
from engine.distributed.world import World
from engine.evaluation.encode import Evaluator
from engine.evaluation.features import Features
from engine.logs.run_log import RunLog
from modules.heads.hmmc import hmmc_head

FRAMES, SIDE, WIDTH, VOCABULARY, WORDS = 12, 224, 64, 512, 12


class CountingStore:
    """JPEG frames in memory, decoded when they are read, as in a frame store. Counts the videos read."""

    def __init__(self, videos: int) -> None:
        rng = np.random.default_rng(0)
        self.reads = 0
        self._clips = {}
        for number in range(videos):
            small = rng.integers(0, 256, size=(FRAMES, 8, 8, 3), dtype=np.uint8)
            pictures = [cv2.resize(frame, (320, SIDE)) for frame in small]
            self._clips[f"v{number}"] = [cv2.imencode(".jpg", picture)[1] for picture in pictures]

    def num_frames(self, video_id: str) -> int:
        return len(self._clips[video_id])

    def iter_frames(
        self, video_id: str, indices: Sequence[int], excess: Sequence[Excess] | None = None
    ) -> list[np.ndarray]:
        self.reads += 1
        return [cv2.imdecode(self._clips[video_id][i], cv2.IMREAD_COLOR)[..., ::-1] for i in indices]

    def read_jpegs(self, video_id: str, indices: Sequence[int]) -> list[bytes]:
        return [self._clips[video_id][i].tobytes() for i in indices]


class Words:
    """A tokenizer that gives each word an id by its bytes."""

    def encode(self, text: str, max_words: int) -> tuple[np.ndarray, np.ndarray, bool]:
        ids = np.zeros(max_words, dtype=np.int64)
        words = [sum(word.encode()) % (VOCABULARY - 1) + 1 for word in text.split()]
        ids[: len(words)] = words
        return ids, (ids > 0).astype(np.int64), False


class SmallModel(nn.Module):
    """A convolution tower over frames and a bag of words, so that encoding takes some time."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Conv2d(3, 32, 16, 16), nn.GELU(), nn.Conv2d(32, WIDTH, 7, 7), nn.GELU())
        self.head = hmmc_head()
        self.text_encoder = nn.Embedding(VOCABULARY, WIDTH)
        self.text_encoder.embed_dim = WIDTH  # type: ignore[assignment]

    def encode_video(self, frames: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        each = self.tower(frames.flatten(0, 1) / 255).mean(dim=(2, 3)).unflatten(0, frames.shape[:2])
        return each.mean(dim=1), each

    def encode_words(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        words = self.text_encoder(ids) * mask[..., None]
        return words.sum(dim=1), words


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--videos", type=int, default=40)
    parser.add_argument("--captions", type=int, default=10, help="captions of each video")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    builder, rng = ExamplesBuilder(), np.random.default_rng(1)
    for number in range(arguments.videos):
        for _ in range(arguments.captions):
            builder.add(f"v{number}", " ".join(f"word{k}" for k in rng.integers(0, 999, size=8)))
    examples = builder.build()
    store, model = CountingStore(arguments.videos), SmallModel()

    def loader(view: str) -> torch.utils.data.DataLoader:
        dataset = VideoTextDataset(
            examples, store, Words(), view=view, max_words=WORDS, max_frames=FRAMES, image_size=SIDE
        )
        sampler = ShardSampler(len(dataset), rank=0, world_size=1)
        return build_loader(dataset, sampler, batch_size=16, num_workers=0, pin_memory=False)

    with tempfile.TemporaryDirectory() as folder:
        evaluator = Evaluator(
            videos=loader("videos"),
            captions=loader("captions"),
            video_of_caption=examples.video_of_caption,
            world=World(0, 1, torch.device("cpu")),
            log=RunLog(Path(folder), active=False),
            max_frames=FRAMES,
            logit_scale=100.0,
        )
        head = hmmc_head()
        once, reads, seconds = measured(lambda: evaluator.encode(model), store)  # type: ignore[arg-type]
        pairs = loader("pairs")
        each, reads_each, seconds_each = measured(lambda: encode_pairs(model, pairs), store)
        ranks = evaluator.compute_metrics(once, head).rankings.t2v.expected
        first = np.unique(examples.video_of_caption, return_index=True)[1]
        assert each.frames is not None
        of_pairs = Features(each.text, each.video[first], each.frames[first])
        differing = int((ranks != evaluator.compute_metrics(of_pairs, head).rankings.t2v.expected).sum())
    print(f"{arguments.videos} videos, {examples.num_captions} captions, {FRAMES} frames of {SIDE} pixels")
    print("| way | videos decoded | seconds |\n| --- | ---: | ---: |")
    print(f"| once a caption (published) | {reads_each} | {seconds_each:.2f} |")
    print(f"| once a video | {reads} | {seconds:.2f} |")
    print(
        f"{reads_each / reads:.1f} times fewer decodes, {seconds_each / seconds:.1f} times faster; ", end=""
    )
    print(f"ranks that differ: {differing}")


def measured(work, store: CountingStore):  # type: ignore[no-untyped-def]
    """(result, videos read, seconds)."""
    store.reads, started = 0, time.perf_counter()
    result = work()
    return result, store.reads, time.perf_counter() - started


@torch.inference_mode()
def encode_pairs(model: SmallModel, pairs: torch.utils.data.DataLoader) -> Features:
    """As in the published code: a clip and a text for every caption."""
    text, video, frames = [], [], []
    for batch in pairs:
        v, f = model.encode_video(batch["frames"], batch["frame_mask"])
        video.append(v)
        frames.append(f)
        text.append(model.encode_words(batch["text_ids"], batch["text_mask"])[0])
    return Features(torch.cat(text), torch.cat(video), torch.cat(frames))


if __name__ == "__main__":
    main()
