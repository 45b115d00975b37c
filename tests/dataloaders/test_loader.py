from typing import Any

import pytest

from common.errors import UserError
from dataloaders.loader import (
    EpochSampler,
    ShardSampler,
    build_loader,
    warn_if_shared_memory_is_short,
)
from dataloaders.video_text import VideoTextDataset
from tests.dataloaders.toy import ListStore, WordTokenizer, toy_examples


def batches(sampler: EpochSampler, size: int) -> list[list[tuple[int, int]]]:
    drawn = list(sampler)
    return [drawn[begin : begin + size] for begin in range(0, len(drawn), size)]


def samplers(num_samples: int, *, world_size: int, global_batch: int, **settings: Any) -> list[EpochSampler]:
    return [
        EpochSampler(
            num_samples,
            rank=rank,
            world_size=world_size,
            batch_size=global_batch // world_size,
            **({"seed": 0} | settings),
        )
        for rank in range(world_size)
    ]


@pytest.mark.parametrize("num_samples", [12, 13, 23, 24, 100])
@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_ranks_together_see_what_one_rank_sees(num_samples: int, drop_last: bool, world_size: int) -> None:
    whole = batches(samplers(num_samples, world_size=1, global_batch=12, drop_last=drop_last)[0], 12)
    ranks = samplers(num_samples, world_size=world_size, global_batch=12, drop_last=drop_last)
    assert len({len(rank) for rank in ranks}) == 1
    shares = [batches(rank, 12 // world_size) for rank in ranks]
    joined = [sum(parts, []) for parts in zip(*shares, strict=True)]
    assert joined == whole
    seen = [index for batch in whole for _, index in batch]
    if drop_last:
        assert len(seen) == len(set(seen)) == num_samples // 12 * 12
    else:
        assert set(seen) == set(range(num_samples)) and len(seen) == -(-num_samples // 12) * 12


def test_epochs_differ_and_repeat() -> None:
    sampler = samplers(50, world_size=1, global_batch=10)[0]
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert {epoch for epoch, _ in second} == {1}
    assert [index for _, index in first] != [index for _, index in second]
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert list(samplers(50, world_size=1, global_batch=10, seed=1)[0]) != first
    assert [i for _, i in samplers(50, world_size=1, global_batch=10, shuffle=False)[0]] == list(range(50))


def test_an_epoch_can_start_in_the_middle() -> None:
    sampler = samplers(50, world_size=1, global_batch=10)[0]
    sampler.set_epoch(3)
    whole = list(sampler)
    sampler.set_epoch(3, start_batch=2)
    assert list(sampler) == whole[20:] and len(sampler) == 30
    sampler.set_epoch(4)
    assert len(sampler) == 50


def test_no_batch_at_all_is_an_error() -> None:
    with pytest.raises(
        ValueError, match="a global batch of 12 is more than the 5 training examples; give at most 5"
    ):
        samplers(5, world_size=2, global_batch=12)
    with pytest.raises(UserError, match="--batch_size gives 0 samples to each of 4 ranks"):
        samplers(5, world_size=4, global_batch=2)
    assert samplers(5, world_size=2, global_batch=12, drop_last=False)[0].batches_per_epoch == 1


@pytest.mark.parametrize("num_samples", [0, 1, 5, 7, 1000])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_shards_cover_everything_once_in_order(num_samples: int, world_size: int) -> None:
    shards = [ShardSampler(num_samples, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert [index for shard in shards for index in shard] == list(range(num_samples))
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1


def toy_dataset(*, max_frames: int, image_size: int) -> VideoTextDataset:
    return VideoTextDataset(
        toy_examples(videos=2),
        ListStore({"v0": 3, "v1": 3}),
        WordTokenizer(),
        view="videos",
        max_words=8,
        max_frames=max_frames,
        image_size=image_size,
    )


def test_wrong_numbers() -> None:
    data = toy_dataset(max_frames=2, image_size=16)
    sampler = ShardSampler(2, rank=0, world_size=1)
    with pytest.raises(UserError, match="--batch_size: 0 samples"):
        build_loader(data, sampler, batch_size=0, num_workers=0)
    with pytest.raises(UserError, match="--num_thread_reader -1"):
        build_loader(data, sampler, batch_size=1, num_workers=-1)


def test_short_shared_memory_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert not warn_if_shared_memory_is_short(10**18, batch_size=1, num_workers=0)
    assert not warn_if_shared_memory_is_short(1, batch_size=1, num_workers=1)
    assert warn_if_shared_memory_is_short(10**15, batch_size=64, num_workers=8)
    data = toy_dataset(max_frames=12, image_size=100_000)
    assert data.sample_bytes == 12 * 3 * 100_000**2
    caplog.clear()
    build_loader(data, ShardSampler(2, rank=0, world_size=1), batch_size=64, num_workers=1)
    for word in ("shared memory", "--num_thread_reader", "--batch_size", "--shm-size"):
        assert word in caplog.text
