from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from common.errors import UserError
from modules.momentum import FeatureQueue, momentum_copy, momentum_update
from tests.device import DEVICE

DIM, FRAMES = 32, 3


def key(number: int) -> Tensor:
    """The unit vector of clip `number`."""
    return torch.eye(DIM)[number]


def clips(*numbers: int) -> dict[str, Tensor]:
    """Keys of these clips; those of frames are not of length 1."""
    return {
        "clips": torch.stack([key(n) for n in numbers]),
        "frames": torch.stack(
            [key(n).repeat(FRAMES, 1) * (1 + torch.arange(FRAMES))[:, None] for n in numbers]
        ),
    }


def make_queue(size: int) -> tuple[nn.Module, FeatureQueue]:
    owner = nn.Module()
    queue = FeatureQueue(owner, size=size, dim=DIM, widths={"clips": 1, "frames": FRAMES})
    return owner.to(DEVICE), queue


def numbers(queue: FeatureQueue, name: str = "clips") -> list[int]:
    """The clip of each column."""
    return queue.snapshot(name).argmax(dim=0).tolist()


def test_starts_as_normalised_noise() -> None:
    owner, queue = make_queue(5)
    assert torch.allclose(queue.snapshot("frames").norm(dim=0), torch.ones(15))
    assert {name: tuple(value.shape) for name, value in owner.state_dict().items()} == {
        "clips": (DIM, 5),
        "frames": (DIM, 15),
        "queue_ptr": (1,),
    }


def test_three_pushes_of_three_into_eight() -> None:
    owner, queue = make_queue(8)
    for start in (0, 3, 6):
        queue.push(clips(start, start + 1, start + 2))
    assert owner.get_buffer("queue_ptr").tolist() == [1]
    assert numbers(queue) == [8, 1, 2, 3, 4, 5, 6, 7]
    assert numbers(queue, "frames") == [n for n in numbers(queue) for _ in range(FRAMES)]
    assert torch.allclose(queue.snapshot("frames").norm(dim=0), torch.ones(24))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 11])
@pytest.mark.parametrize("counts", [(10,), (3, 10), (1, 2, 5, 5)])
def test_pushing_many_clips_leaves_what_pushing_one_by_one_leaves(size: int, counts: tuple[int, ...]) -> None:
    owner, together = make_queue(size)
    other_owner = copy.deepcopy(owner)
    single = FeatureQueue(other_owner, size=size, dim=DIM, widths={"clips": 1, "frames": FRAMES})
    other_owner.to(DEVICE).load_state_dict(owner.state_dict())
    first = 0
    for count in counts:
        together.push(clips(*range(first, first + count)))
        for number in range(first, first + count):
            single.push(clips(number))
        first += count
    for name, value in owner.state_dict().items():
        assert torch.equal(value, other_owner.state_dict()[name]), name


def test_a_push_changes_neither_other_queues_nor_snapshots() -> None:
    _, queue = make_queue(4)
    frames, snapshot = queue.snapshot("frames"), queue.snapshot("clips")
    before = snapshot.clone()
    queue.push({"clips": clips(1, 2)["clips"]})
    assert torch.equal(queue.snapshot("frames"), frames)
    assert torch.equal(snapshot, before) and not torch.equal(queue.snapshot("clips"), before)


def test_keys_are_normalised_and_padding_stays_zero() -> None:
    _, queue = make_queue(2)
    frames = clips(1, 2)["frames"] * 7
    frames[1, 2] = 0.0
    queue.push({"frames": frames})
    assert torch.allclose(queue.snapshot("frames").norm(dim=0), torch.tensor([1.0, 1, 1, 1, 1, 0]))


def test_a_wrong_width_is_a_broken_invariant_and_a_size_of_0_a_user_error() -> None:
    _, queue = make_queue(2)
    with pytest.raises(AssertionError):
        queue.push({"frames": clips(1)["frames"][:, :2]})
    with pytest.raises(UserError, match="--contrast_num_negative 0"):
        make_queue(0)


def test_momentum_moves_parameters_and_leaves_buffers() -> None:
    query = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).to(DEVICE)
    key_module = momentum_copy(query)
    assert not any(p.requires_grad for p in key_module.parameters())
    before = copy.deepcopy(key_module)
    with torch.no_grad():
        for parameter in query.parameters():
            parameter.add_(1.0)
        query[1].running_mean.add_(1.0)  # type: ignore[union-attr,operator]
    momentum_update(key_module, query, momentum=0.9)
    for new, old, target in zip(
        key_module.parameters(), before.parameters(), query.parameters(), strict=True
    ):
        assert torch.allclose(new, 0.9 * old + 0.1 * target)
    assert torch.equal(key_module[1].running_mean, before[1].running_mean)  # type: ignore[arg-type]


def test_a_key_that_is_not_finite_is_written_as_zeros() -> None:
    owner, queue = make_queue(4)
    keys = clips(1, 2, 3)
    keys["clips"][1, 0] = torch.nan
    keys["frames"][2, 1] = torch.inf
    queue.push(keys)
    lengths = queue.snapshot("clips").norm(dim=0), queue.snapshot("frames").norm(dim=0).view(4, FRAMES)
    torch.testing.assert_close(lengths[0][:3], torch.tensor([1.0, 0, 1]))
    torch.testing.assert_close(lengths[1][2], torch.tensor([1.0, 0, 1]))
    assert all(torch.isfinite(value).all() for value in owner.state_dict().values())
    assert owner.get_buffer("queue_ptr").tolist() == [3]


def test_age_and_share_filled_since_the_start() -> None:
    """The age is in pushes: a queue of 8 holds clips of the last 3 pushes of 3."""
    _, queue = make_queue(8)
    counts = [(queue.age, queue.filled)]
    for start in range(0, 15, 3):
        queue.push(clips(start, start + 1, start + 2))
        counts.append((queue.age, queue.filled))
    assert counts == [(0, 0.0), (1, 3 / 8), (2, 6 / 8), (3, 1.0), (3, 1.0), (3, 1.0)]
