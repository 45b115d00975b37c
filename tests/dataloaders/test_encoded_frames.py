"""Clips whose JPEGs the device decodes: the same pixels as from the worker, and what is broken is said.

Here the device is the CPU, on which torchvision decodes with libjpeg-turbo too.
"""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from common.errors import UserError
from dataloaders.encoded_frames import collate, decode_clips, encoded_clip
from dataloaders.frame_store.reader import FrameStore
from dataloaders.frame_store.writer import FrameStoreWriter
from dataloaders.loader import EpochSampler, build_loader
from dataloaders.video_text import VideoTextDataset
from engine.distributed.device import BatchCopier
from tests.dataloaders.toy import WordTokenizer, toy_examples

CPU = torch.device("cpu")
SIDE, FRAMES = 32, 4
SIZES = [(40, 64), (70, 33), (40, 64), (600, 34)]  # of the videos; the last one is a very long picture


def jpeg(height: int, width: int, *, seed: int, **options: Any) -> bytes:
    small = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(stream, "JPEG", **options)
    return stream.getvalue()


def turned(height: int, width: int, *, seed: int) -> bytes:
    """A JPEG with EXIF data, which only OpenCV decodes here."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return jpeg(height, width, seed=seed, exif=exif)


@pytest.fixture
def store(tmp_path: Path) -> FrameStore:
    with FrameStoreWriter(tmp_path / "store", expected=len(SIZES)) as writer:
        for number, (height, width) in enumerate(SIZES):
            frames = [jpeg(height, width, seed=10 * number + frame) for frame in range(FRAMES - 1)]
            writer.put(f"v{number}", [*frames, turned(height, width, seed=number)])
    return FrameStore(tmp_path / "store")


def dataset(store: Any, *, encoded: bool, **options: Any) -> VideoTextDataset:
    examples = toy_examples(videos=len(SIZES), duration=6.0)
    kinds: dict[str, Any] = {"view": "pairs", "max_words": 8, "max_frames": FRAMES, "image_size": SIDE}
    return VideoTextDataset(examples, store, WordTokenizer(), encoded=encoded, **kinds, **options)


def only_batch(data: VideoTextDataset, *, workers: int = 0) -> dict[str, Tensor]:
    sampler = EpochSampler(len(data), rank=0, world_size=1, batch_size=len(data), seed=0)
    return next(iter(build_loader(data, sampler, batch_size=len(data), num_workers=workers)))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"frame_sample_len": "dynamic"},  # three frames and one of padding
        {"augment": "frame", "colours_here": False},
        {"augment": "clip", "colours_here": False},
    ],
    ids=["plain", "padded", "augmented", "augmented per clip"],
)
def test_pixels_are_those_of_the_worker(options: dict[str, Any], store: FrameStore) -> None:
    copy = BatchCopier(CPU)
    expected = copy(only_batch(dataset(store, encoded=False, **options)))
    encoded = copy(only_batch(dataset(store, encoded=True, **options)))
    assert encoded.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(encoded[name], tensor, atol=0, rtol=0, msg=name)
    assert encoded["frames"].float().std() > 10


def test_a_worker_sends_jpegs_and_no_pixels(store: FrameStore) -> None:
    batch = only_batch(dataset(store, encoded=True), workers=1)
    assert "frames" not in batch and batch["jpeg_sizes"].shape == (len(SIZES), FRAMES, 4)
    assert len(batch["jpegs"]) == batch["jpeg_sizes"][..., 1].sum()
    assert batch["replaced"].tolist() == [0] * len(SIZES)


def test_evaluation_decodes_in_the_worker(store: FrameStore) -> None:
    examples = toy_examples(videos=len(SIZES))
    videos = VideoTextDataset(
        examples,
        store,
        WordTokenizer(),
        view="videos",
        max_words=8,
        max_frames=FRAMES,
        image_size=SIDE,
        encoded=True,
    )
    assert videos[0]["frames"].shape == (FRAMES, 3, SIDE, SIDE) and "jpegs" not in videos[0]


def batch_of(*clips: list[bytes]) -> dict[str, Tensor]:
    samples = [encoded_clip(clip, max_frames=2, image_size=SIDE) for clip in clips]
    return collate([sample | {"replaced": torch.tensor(0)} for sample in samples])


def without_tables(data: bytes) -> bytes:
    """Without its quantisation tables, which a decoder misses only after it has read the header."""
    while (start := data.find(b"\xff\xdb")) >= 0:
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        data = data[:start] + data[end:]
    return data


def test_a_frame_that_cannot_be_decoded_is_black_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    good = jpeg(40, 64, seed=1)
    broken = without_tables(good)
    batch = batch_of([good, good], [good, broken])
    with caplog.at_level(logging.WARNING):
        frames = decode_clips(batch, CPU)
    whole = decode_clips(batch_of([good, good]), CPU)
    assert torch.equal(frames[0], whole[0]) and torch.equal(frames[1, 0], whole[0, 0])
    assert not frames[1, 1].any() and batch["replaced"].tolist() == [0, 1]
    assert "a frame is black: broken JPEG" in caplog.text


@pytest.mark.parametrize(
    ("data", "message"), [(b"\x89PNG and more", "not a JPEG"), (jpeg(8, 8, seed=0)[:-40], "cut off after")]
)
def test_what_is_no_jpeg_is_found_by_the_worker(data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        encoded_clip([data], max_frames=1, image_size=SIDE)


def test_a_worker_replaces_a_video_with_a_broken_frame(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with FrameStoreWriter(tmp_path / "store", expected=2) as writer:
        writer.put("v0", [jpeg(40, 40, seed=0)])
        writer.put("v1", [jpeg(40, 40, seed=0)[:-40]])
    data = VideoTextDataset(
        toy_examples(videos=2),
        FrameStore(tmp_path / "store"),
        WordTokenizer(),
        view="pairs",
        max_words=8,
        max_frames=1,
        image_size=SIDE,
        encoded=True,
    )
    with caplog.at_level(logging.WARNING):
        assert data[1]["replaced"] == 1 and data[1]["index"] == 0
    assert "video v1: broken JPEG: cut off" in caplog.text


def test_collate_without_jpegs_is_that_of_torch() -> None:
    samples = [{"index": torch.tensor(number)} for number in range(3)]
    assert collate(samples)["index"].tolist() == [0, 1, 2]
