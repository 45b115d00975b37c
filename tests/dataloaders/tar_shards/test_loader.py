"""Batches from shards: what is promised of their order, of resuming, of ranks and of processes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from common.errors import UserError
from dataloaders.loader import end_workers
from dataloaders.tar_shards.order import ShardOrder
from tests.dataloaders.tar_shards.shards import loader_of, order_of, source, write_shards

SIZES = (7, 3, 9, 1, 5, 6)  # 31 samples: 7 batches of 4


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_shards(tmp_path_factory.mktemp("shards"), SIZES)


@pytest.fixture(scope="module")
def order(addresses: list[str]) -> ShardOrder:
    return order_of([source(addresses, SIZES)])


def batches(order: ShardOrder, epoch: int = 0, start: int = 0, **where: Any) -> list[dict[str, Any]]:
    loader = loader_of(order, **where)
    loader.set_epoch(epoch, start_batch=start)
    try:
        found = list(loader)
        assert len(found) == len(loader)
        return found
    finally:
        end_workers()


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_an_epoch_has_every_sample_once_but_those_that_fill_no_batch(order: ShardOrder) -> None:
    for epoch in range(3):
        numbers = torch.cat([batch["index"] for batch in batches(order, epoch)]).tolist()
        assert len(numbers) == len(set(numbers)) == 28


def test_a_sample_has_its_own_text_and_frames(order: ShardOrder) -> None:
    for batch in batches(order):
        for number, ids, frames in zip(batch["index"], batch["text_ids"], batch["frames"], strict=True):
            shard, sample = order.place(int(number))
            word = 1 + sum(f"s{shard}n{sample}".encode()) % 900
            assert ids[3] == word and (frames.float().mean() - 10 * sample).abs() < 3
        assert not batch["replaced"].any()


def test_epochs_and_seeds_differ(order: ShardOrder, addresses: list[str]) -> None:
    other = order_of([source(addresses, SIZES)], seed=1)
    rows = [
        torch.cat([b["index"] for b in batches(*what)]).tolist() for what in ((order,), (order, 1), (other,))
    ]
    assert rows[0] != rows[1] and rows[0] != rows[2]


@pytest.mark.parametrize("start", range(7))
def test_resuming_in_an_epoch_is_exact(order: ShardOrder, start: int) -> None:
    whole = batches(order, 1)
    assert all(map(same, batches(order, 1, start), whole[start:]))


def test_processes_and_ranks_do_not_change_the_batches(order: ShardOrder) -> None:
    whole = batches(order, 1)
    assert all(map(same, batches(order, 1, workers=2), whole))
    ranks = [batches(order, 1, rank=rank, ranks=2) for rank in (0, 1)]
    assert [len(each) for each in ranks] == [7, 7]
    for one, first, second in zip(whole, *ranks, strict=True):
        assert same(one, {name: torch.cat([first[name], second[name]]) for name in one})


def test_processes_live_for_several_epochs(order: ShardOrder) -> None:
    positions = ((0, 2), (1, 0))
    expected = [batches(order, *position) for position in positions]
    loader = loader_of(order, workers=1)
    for (epoch, start), whole in zip(positions, expected, strict=True):
        loader.set_epoch(epoch, start_batch=start)
        assert all(map(same, loader, whole))
    end_workers()


def test_samples_of_names_what_a_batch_holds(order: ShardOrder) -> None:
    loader = loader_of(order, rank=1, ranks=2)
    loader.set_epoch(2)
    for number, batch in enumerate(loader):
        assert loader.samples_of(2, number) == batch["index"].tolist()
    assert loader.name_of(8).endswith("001.tar sample 1")


def test_readers_need_not_divide_the_batch(addresses: list[str]) -> None:
    order = order_of([source(addresses, SIZES)], readers=3, batch_size=7)
    numbers = [batch["index"].tolist() for batch in batches(order)]
    assert [len(batch) for batch in numbers] == [7] * 4 and len(set(sum(numbers, []))) == 28


def test_weights_take_parts_of_a_source_in_turn(addresses: list[str]) -> None:
    sources = [source(addresses[:2], SIZES[:2]), source(addresses[2:], SIZES[2:], weight=1 / 3)]
    order = order_of(sources, batch_size=1, readers=1)
    assert order.samples_per_epoch == 10 + 7
    epochs = [[int(batch["index"]) for batch in batches(order, epoch)] for epoch in range(3)]
    assert all(sorted(n for n in epoch if n < 10) == list(range(10)) for epoch in epochs)
    assert sorted(n for epoch in epochs for n in epoch if n >= 10) == list(range(10, 31))


def test_a_weight_above_one_repeats_a_source(addresses: list[str]) -> None:
    order = order_of([source(addresses, SIZES, weight=2)], batch_size=2)
    numbers = [n for batch in batches(order) for n in batch["index"].tolist()]
    assert sorted(numbers) == sorted(2 * list(range(31)))


def test_a_batch_larger_than_an_epoch_is_refused(addresses: list[str]) -> None:
    with pytest.raises(UserError, match=r"--batch_size 32: more than the 31 samples"):
        order_of([source(addresses, SIZES)], batch_size=32)
    with pytest.raises(UserError, match=r"--shard_readers 5"):
        order_of([source(addresses, SIZES)], batch_size=4, readers=5)
