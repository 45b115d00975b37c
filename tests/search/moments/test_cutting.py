"""Where long videos are cut."""

from __future__ import annotations

import numpy as np
import pytest

from common.errors import UserError
from search.moments.cutting import Cutting, changes, cut, histograms

TIMES = [2.0 * number for number in range(30)]  # a minute


def differ(**at: float) -> np.ndarray:
    steps = np.zeros(len(TIMES))
    for second, change in at.items():
        steps[int(second[1:]) // 2] = change
    return steps


def test_without_a_change_moments_last_as_long_as_they_may() -> None:
    assert cut(TIMES, differ(), every=24) == [0, 12, 24]


def test_a_moment_ends_at_the_strongest_change_of_its_second_half() -> None:
    assert cut(TIMES, differ(s14=0.6, s18=0.9, s20=0.55), every=24) == [0, 9, 21]
    assert cut(TIMES, differ(s24=0.9), every=24) == [0, 12, 24]
    assert cut(TIMES, differ(s10=1.0, s18=0.4), every=24) == [0, 12, 24]  # too early; no other shot


def test_every_frame_is_in_one_moment_whatever_the_times() -> None:
    rng = np.random.default_rng(0)
    for every in (1.0, 3.0, 24.0):
        times = np.cumsum(rng.exponential(2.0, 500)).tolist()
        starts = cut(times, rng.random(500), every=every)
        ends = [*starts[1:], 500]
        assert starts[0] == 0 and all(start < end for start, end in zip(starts, ends, strict=True))
        assert all(times[end - 1] - times[start] < every for start, end in zip(starts, ends, strict=True))


def test_shots_differ_and_frames_of_one_shot_do_not() -> None:
    rng = np.random.default_rng(1)

    def noisy(colour: tuple[int, int, int]) -> np.ndarray:
        picture = np.array(colour) + rng.normal(0, 6, (90, 160, 3))
        return np.clip(picture, 0, 255).astype(np.uint8)

    pictures = [noisy(colour) for colour in ((200, 40, 40), (200, 40, 40), (40, 60, 200), (40, 60, 200))]
    steps = changes(histograms(pictures))
    assert steps[0] == 0 and steps[1] < 0.3 and steps[2] > 0.9 and steps[3] < 0.3
    assert changes(histograms([])).shape == (0,)


@pytest.mark.parametrize(("every", "above", "flag"), [(0.5, 1, "--every 0.5"), (10, -1, "--cut_above -1")])
def test_wrong_seconds_are_told(every: float, above: float, flag: str) -> None:
    with pytest.raises(UserError, match=f"{flag}: give seconds"):
        Cutting(every, above)


def test_frames_are_a_second_apart_or_more() -> None:
    assert [Cutting(every).distance(12) for every in (24.0, 12.0, 5.0, 60.0)] == [2.0, 1.0, 1.0, 5.0]
