"""Broken shards and samples: what is replaced, what is told, what ends the run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import UserError
from dataloaders.tar_shards.dataset import TextChoice
from dataloaders.tar_shards.loader import ShardLoader, describe_faults
from dataloaders.tar_shards.order import ShardOrder
from dataloaders.tar_shards.raw_samples import BadSampleError, Texts
from tests.dataloaders.tar_shards.http_server import serving
from tests.dataloaders.tar_shards.shards import (
    jpeg,
    loader_of,
    maker,
    order_of,
    sample_files,
    shard_bytes,
    source,
    tar_bytes,
    write_shards,
)

SIZES = (6, 6, 6)
Batches = list[dict[str, Any]]


def read(order: ShardOrder, start: int = 0, **options: Any) -> tuple[ShardLoader, Batches]:
    loader = loader_of(order, **options)
    loader.set_epoch(0, start_batch=start)
    return loader, list(loader)


def broken(tmp_path: Path, shard: int, data: bytes | None, **settings: Any) -> ShardOrder:
    """Three shards of six, of which one is replaced, or absent."""
    addresses = write_shards(tmp_path, SIZES)
    path = Path(addresses[shard])
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)
    return order_of([source(addresses, SIZES)], **({"batch_size": 3} | settings))


def with_bad_samples() -> bytes:
    files = sample_files("s1n0") | sample_files("s1n1", caption="")
    files |= {"s1n2.0.jpg": jpeg(1)[:-40], "s1n2.json": b'{"caption": "its frame is cut off"}'}
    for number in range(3, 6):
        files |= sample_files(f"s1n{number}", grey=10 * number)
    return tar_bytes(files)


def numbers(batches: Batches, *, replaced: bool) -> list[int]:
    pairs = [pair for batch in batches for pair in zip(batch["index"], batch["replaced"], strict=True)]
    return sorted(int(number) for number, is_replaced in pairs if bool(is_replaced) == replaced)


def test_bad_samples_are_replaced_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    order = broken(tmp_path, 1, with_bad_samples())
    with caplog.at_level(logging.WARNING):
        loader, batches = read(order)
    assert [len(batch["index"]) for batch in batches] == [3] * 6
    assert numbers(batches, replaced=False) == [n for n in range(18) if n not in (7, 8)]
    assert set(numbers(batches, replaced=True)) <= {n for n in range(18) if n not in (7, 8)}
    assert "1 sample of " in caplog.text and "001.tar skipped: 's1n1': has no caption" in caplog.text
    assert "001.tar skipped: 's1n2': frame 0: broken JPEG: cut off" in caplog.text
    assert sum(loader.faults.values()) == 2


@pytest.mark.parametrize(
    ("data", "lost", "why"),
    [
        (None, 6, "FileNotFoundError"),
        (shard_bytes(1, 6)[: shard_bytes(1, 6).index(b"s1n2.1.jpg") + 700], 4, "cut off after"),
        (shard_bytes(1, 4), 2, "it ends before its 6 samples"),
        (b"not an archive" * 100, 6, "is not a tar archive"),
        (tar_bytes({}), 6, "it ends before its 6 samples"),
    ],
    ids=["absent", "cut", "short", "html", "empty"],
)
def test_a_broken_shard_costs_what_it_lacks(data: bytes | None, lost: int, why: str, tmp_path: Path) -> None:
    loader, batches = read(broken(tmp_path, 1, data))
    assert len(batches) == 6
    missing = set(range(18)) - set(numbers(batches, replaced=False))
    assert missing <= set(range(6, 12)) and len(missing) == len(numbers(batches, replaced=True)) == lost
    assert sum(loader.faults.values()) == lost and why in describe_faults(loader.faults)


@pytest.mark.parametrize("start", [1, 3, 5])
def test_a_resumed_run_replaces_alike(start: int, tmp_path: Path) -> None:
    order = broken(tmp_path, 1, with_bad_samples(), buffer=6)
    whole, rest = read(order)[1], read(order, start)[1]
    for one, other in zip(whole[start:], rest, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_reader_whose_stretch_is_broken_goes_on_behind_it(tmp_path: Path) -> None:
    addresses = write_shards(tmp_path, SIZES)
    order = order_of([source(addresses, SIZES)], batch_size=3, readers=3)
    first = order.addresses[int(order.pieces(0).shard[0])]
    Path(first).unlink()
    _, batches = read(order)
    replaced = [int(batch["index"][0]) for batch in batches]
    assert [int(batch["replaced"][0]) for batch in batches] == [1] * 6
    assert {order.place(number)[0] for number in replaced} == {int(order.pieces(0).shard[1])}


def test_too_many_bad_samples_end_the_run(tmp_path: Path) -> None:
    sizes = (40, 40)
    addresses = write_shards(tmp_path, sizes)
    Path(addresses[0]).write_bytes(shard_bytes(0, 5))
    order = order_of([source(addresses, sizes)], batch_size=4)
    message = r"samples of this epoch cannot be used, more than 10.0% of 80 \(--max_bad_share\); .*000.tar"
    with pytest.raises(UserError, match=message):
        read(order, most_bad=0.1)


def test_shards_that_give_nothing_end_the_run(tmp_path: Path) -> None:
    addresses = write_shards(tmp_path, SIZES)
    for address in addresses:
        Path(address).unlink()
    order = order_of([source(addresses, SIZES)])
    with pytest.raises(UserError, match=r"--shards: 3 shards in a row gave no sample: .*FileNotFoundError"):
        read(order)


def test_a_dying_server_costs_samples_and_never_a_hang(tmp_path: Path) -> None:
    files = {f"{shard}.tar": shard_bytes(shard, 6) for shard in range(3)}
    with serving(files) as server:
        addresses = [f"{server.address}/{name}" for name in files]
        order = order_of([source(addresses, SIZES)], batch_size=3)
        whole = read(order)[1]
        server.ends_after = 3000  # of each connection: blocks become smaller, but not that small
        with pytest.raises(UserError, match="shards in a row gave no sample"):
            read(order)
        server.ends_after, server.refusals = None, 3
        again = read(order)[1]
    assert all(torch.equal(one["index"], other["index"]) for one, other in zip(whole, again, strict=True))


def test_shards_of_guessed_sizes_repeat_samples_without_a_fault(tmp_path: Path) -> None:
    addresses = write_shards(tmp_path, (6, 4, 6))
    order = order_of([source(addresses, SIZES, exact=False)], batch_size=3)
    loader, batches = read(order)
    assert numbers(batches, replaced=True) == [] and not loader.faults
    given = numbers(batches, replaced=False)
    assert len(given) == 18 and set(given) == set(range(18)) - {10, 11}


def test_captions_take_turns() -> None:
    texts = Texts({"": ["a", "b", "c"]})

    def caption(turn: int) -> str:
        return TextChoice("english").of(texts, turn=turn, rng=np.random.default_rng(5))[0]

    assert {caption(turn) for turn in range(3)} == {"a", "b", "c"} and caption(0) == caption(3)


def test_captions_of_a_paragraph_are_one_text() -> None:
    rng = np.random.default_rng(0)
    texts = Texts({"english": ["one.", "two."], "chinese": ["一。", "二。"]})
    assert TextChoice("english", joined=True).of(texts, turn=1, rng=rng)[0] == "one. two."
    both = {
        TextChoice("bilingual", joined=True).of(texts, turn=n, rng=np.random.default_rng(0)) for n in (0, 1)
    }
    assert both == {("one. two.", "", 0), ("一。 二。", "", 1)}
    with pytest.raises(BadSampleError, match="has no english caption"):
        TextChoice("english", joined=True).of(Texts({}), turn=0, rng=rng)


def test_languages_and_tags() -> None:
    rng = np.random.default_rng(0)
    texts = Texts({"english": ["cat"], "chinese": ["猫"]}, {"chinese": "动物"})
    assert TextChoice("chinese").of(texts, turn=0, rng=rng) == ("猫", "动物", None)
    assert TextChoice("chinese", "tag").of(texts, turn=0, rng=rng)[0] == "动物"
    with pytest.raises(BadSampleError, match="has no english tags"):
        TextChoice("english", "tag").of(texts, turn=0, rng=rng)
    both = {TextChoice("bilingual").of(texts, turn=n, rng=np.random.default_rng(0))[::2] for n in (0, 1)}
    assert both == {("cat", 0), ("猫", 1)}
    unnamed = Texts({"": ["a cat", "一只猫"]})
    both = {TextChoice("bilingual").of(unnamed, turn=n, rng=np.random.default_rng(0))[::2] for n in (0, 1)}
    assert both == {("a cat", 0), ("一只猫", 1)}
    with pytest.raises(BadSampleError, match="has no english caption"):
        TextChoice("english").of(Texts({"chinese": ["猫"]}), turn=0, rng=rng)


def test_dynamic_lengths_need_a_duration(tmp_path: Path) -> None:
    order = broken(tmp_path, 0, tar_bytes(sample_files("a", duration=4.0)), batch_size=1, readers=1)
    loader, batches = read(order, samples=maker(dynamic=True))
    assert set(numbers(batches, replaced=False)) == {0}
    assert "has no 'duration'" in describe_faults(loader.faults)
