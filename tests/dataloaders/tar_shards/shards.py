"""Small shards for the tests of this package."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dataloaders.samples import SampleMaker
from dataloaders.tar_shards.dataset import ShardDataset, TextChoice
from dataloaders.tar_shards.index import Source
from dataloaders.tar_shards.loader import ShardLoader
from dataloaders.tar_shards.order import ShardOrder
from dataloaders.tar_shards.stream import Patience
from tests.dataloaders.toy import WordTokenizer

HASTY = Patience(stall_s=0.5, tries=3, first_wait_s=0.01)
Files = Mapping[str, bytes]


@cache
def jpeg(grey: int) -> bytes:
    return cv2.imencode(".jpg", np.full((20, 24, 3), grey, dtype=np.uint8))[1].tobytes()


def sample_files(key: str, *, frames: int = 2, grey: int = 7, **record: Any) -> dict[str, bytes]:
    """The files of one sample: `key`.0.jpg, ..., and `key`.json."""
    record = {"caption": f"text of {key}"} | record
    pictures = {f"{key}.{number}.jpg": jpeg(grey) for number in range(frames)}
    return pictures | {f"{key}.json": json.dumps(record).encode()}


def tar_bytes(files: Files | Iterable[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items() if isinstance(files, Mapping) else files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def shard_bytes(shard: int, samples: int) -> bytes:
    """A shard of samples named `s{shard}n0`, ...; the grey of their frames is their number in the shard."""
    files: dict[str, bytes] = {}
    for number in range(samples):
        files |= sample_files(f"s{shard}n{number}", grey=10 * number % 256)
    return tar_bytes(files)


def write_shards(folder: Path, sizes: Sequence[int], *, index: bool = True) -> list[str]:
    """Shards 000.tar, ... of these sizes; returns their addresses."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard, samples in enumerate(sizes):
        (folder / f"{shard:03}.tar").write_bytes(shard_bytes(shard, samples))
    if index:
        table = {f"{shard:03}.tar": samples for shard, samples in enumerate(sizes)}
        (folder / "sizes.json").write_text(json.dumps(table), encoding="utf-8")
    return [str(folder / f"{shard:03}.tar") for shard in range(len(sizes))]


def source(addresses: Sequence[str], sizes: Sequence[int], **more: Any) -> Source:
    return Source("toy", tuple(addresses), tuple(sizes), **more)


def order_of(sources: Sequence[Source], **settings: Any) -> ShardOrder:
    defaults: dict[str, Any] = {"seed": 0, "batch_size": 4, "readers": 2, "buffer": 3}
    return ShardOrder(sources, **(defaults | settings))


def maker(**settings: Any) -> SampleMaker:
    defaults: dict[str, Any] = {"max_words": 8, "max_frames": 2, "image_size": 8}
    return SampleMaker(WordTokenizer(), **(defaults | settings))


def loader_of(
    order: ShardOrder,
    *,
    rank: int = 0,
    ranks: int = 1,
    workers: int = 0,
    most_bad: float = 1.0,
    samples: SampleMaker | None = None,
    texts: TextChoice | None = None,
) -> ShardLoader:
    each = order.readers // ranks
    dataset = ShardDataset(
        order,
        samples or maker(),
        texts or TextChoice("english"),
        readers=range(rank * each, (rank + 1) * each),
        slots=max(workers, 1),
        patience=HASTY,
    )
    return ShardLoader(dataset, workers=workers, most_bad=most_bad)
