import numpy as np
import pytest

from common.errors import UserError
from dataloaders.frame_sampling import (
    TooFewFramesError,
    dynamic_length,
    frames_within,
    sample_frame_indices,
)


def sample(stored: int, wanted: int, how: str, *, seed: int = 0) -> list[int]:
    rng = np.random.default_rng(seed)
    return sample_frame_indices(stored, wanted, frame_sample=how, rng=rng).tolist()


def test_uniform_is_the_published_linspace() -> None:
    assert sample(30, 12, "uniform") == [0, 2, 5, 7, 10, 12, 15, 17, 20, 22, 25, 27]
    assert sample(48, 12, "uniform") == list(range(0, 48, 4))
    assert sample(12, 12, "uniform") == list(range(12))


def test_uniform_repeats_in_order_when_fewer_are_stored() -> None:
    assert sample(5, 12, "uniform") == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4]
    assert sample(1, 3, "uniform") == [0, 0, 0]


def test_random_is_sorted_without_repeats_and_follows_the_generator() -> None:
    draws = [sample(30, 12, "random", seed=seed) for seed in range(200)]
    assert all(draw == sorted(set(draw)) and draw[0] >= 0 and draw[-1] < 30 for draw in draws)
    assert {index for draw in draws for index in draw} == set(range(30))
    assert sample(30, 12, "random", seed=3) == draws[3]
    assert sample(12, 12, "random") == list(range(12))


def test_random_of_more_than_stored_is_refused() -> None:
    with pytest.raises(
        TooFewFramesError, match="cannot choose 12 of 11 stored frames: lower --max_frames to 11"
    ):
        sample(11, 12, "random")


@pytest.mark.parametrize(("stored", "wanted"), [(30, 12), (30, 30), (48, 7), (13, 12)])
def test_uniform_random_takes_one_of_each_segment(stored: int, wanted: int) -> None:
    bounds = [position * stored // wanted for position in range(wanted + 1)]
    draws = np.array([sample(stored, wanted, "uniform_random", seed=seed) for seed in range(300)])
    assert (draws >= bounds[:-1]).all() and (draws < bounds[1:]).all()
    assert set(draws.ravel().tolist()) == set(range(stored))


def test_uniform_random_repeats_in_order_when_fewer_are_stored() -> None:
    assert sample(2, 4, "uniform_random") == [0, 0, 1, 1]


def test_unknown_way() -> None:
    with pytest.raises(UserError, match="--frame_sample all: choose from uniform, random, uniform_random"):
        sample(3, 3, "all")


@pytest.mark.parametrize(
    ("duration", "factor", "length"),
    [(10, 0.3, 3), (20, 0.3, 6), (0, 0.5, 3), (9.9, 0.5, 4), (1000, 0.5, 12)],
)
def test_dynamic_length(duration: float, factor: float, length: int) -> None:
    assert dynamic_length(duration, 12, factor=factor) == length


def test_dynamic_length_never_exceeds_the_frames_asked_for() -> None:
    assert dynamic_length(100, 2, factor=0.5) == 2


def test_frames_of_the_first_seconds() -> None:
    times = [2.0, 12.0, 22.0, 31.9, 32.0, 60.0]  # the video begins at 2 s
    assert frames_within({"times": times}, 6, 30.0) == 4
    assert frames_within({"times": times}, 6, 100.0) == 6
    assert frames_within({"times": [5.0, 90.0]}, 2, 0.0) == 1  # a clip needs a frame
    for unknown in (None, {}, {"times": times}):
        assert frames_within(unknown, 5, 30.0) == 5
