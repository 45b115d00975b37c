from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from common.errors import UserError
from dataloaders.datasets.splits import exclude_missing, hold_out, match_store_ids, with_store_durations
from dataloaders.examples import Examples, ExamplesBuilder
from tests.dataloaders.toy import ListStore, toy_examples


def test_absent_videos_are_left_out_counted_and_named() -> None:
    examples = toy_examples(videos=8, captions_each=2)
    kept, missing = exclude_missing(examples, ListStore({"v1": 30, "v7": 1}))
    assert list(kept.video_ids) == ["v1", "v7"] and kept.num_captions == 4
    assert missing and missing.count == 6 and missing.total == 8
    assert str(missing) == "6 of 8 videos are absent from the frame store: v0, v2, v3, v4, v5, ..."


def test_videos_whose_names_are_in_another_unicode_form_are_counted() -> None:
    builder = ExamplesBuilder()
    for video_id in ("caf\u00e9", "cafe\u0301 2", "plain"):
        builder.add(video_id, "text")
    _, missing = exclude_missing(builder.build(), ListStore({"cafe\u0301": 3, "caf\u00e9 2": 3}))
    assert missing.count == 3 and missing.other_form == 2
    assert "it has 2 of them with the name in another Unicode form" in str(missing)


def test_nothing_absent() -> None:
    examples = toy_examples(videos=2)
    kept, missing = exclude_missing(examples, ListStore({"v0": 3, "v1": 3}))
    assert kept is examples and not missing


def test_chvtt_ids_follow_the_store() -> None:
    builder = ExamplesBuilder()
    for docid in ("1", "2", "3"):
        builder.add(f"Video{docid}", "text")
    examples = builder.build()
    assert match_store_ids(examples, ListStore({"Video3": 48}), prefix="Video") is examples
    assert match_store_ids(examples, ListStore({"other": 48}), prefix="Video") is examples
    assert list(match_store_ids(examples, ListStore({"2": 48}), prefix="Video").video_ids) == ["1", "2", "3"]
    assert match_store_ids(examples, ListStore({"2": 48}), prefix="") is examples


def spread_examples(videos: int, *, captions: int = 3, order: list[int] | None = None) -> Examples:
    """Captions of one video are not adjacent, as in CHVTT's queries; the tag names the video."""
    builder = ExamplesBuilder()
    for caption in range(captions):
        for video in order or range(videos):
            builder.add(f"v{video}", f"caption {caption} of v{video}", tag=f"v{video}", duration=video)
    return builder.build()


def test_all_captions_of_a_video_go_together_and_none_is_lost() -> None:
    whole = spread_examples(100)
    kept, held = hold_out(whole, share=0.05, seed=1)
    assert (kept.num_videos, held.num_videos) == (95, 5)
    assert (kept.num_captions, held.num_captions) == (285, 15)
    assert not set(kept.video_ids) & set(held.video_ids)
    assert set(kept.captions) | set(held.captions) == set(whole.captions)
    for part in (kept, held):
        assert part.tags is not None and part.durations is not None
        for number, caption in enumerate(part.captions):
            assert caption.endswith(f"of {part.video_id_of(number)}")
            assert part.tags[number] == part.video_id_of(number)
        assert part.durations.tolist() == [float(v[1:]) for v in part.video_ids]


def test_the_seed_and_the_ids_alone_decide() -> None:
    shuffled = np.random.default_rng(0).permutation(50).tolist()
    first = set(hold_out(spread_examples(50), share=0.2, seed=1)[1].video_ids)
    assert len(first) == 10
    assert set(hold_out(spread_examples(50, order=shuffled), share=0.2, seed=1)[1].video_ids) == first
    assert set(hold_out(spread_examples(50), share=0.2, seed=2)[1].video_ids) != first


@pytest.mark.parametrize(("share", "held"), [(0.001, 1), (0.999, 9), (0.5, 5)])
def test_at_least_one_video_on_either_side(share: float, held: int) -> None:
    assert hold_out(spread_examples(10), share=share, seed=0)[1].num_videos == held


def test_one_video_cannot_be_split() -> None:
    with pytest.raises(UserError, match="--select_on held_out: needs at least 2 training videos, not 1"):
        hold_out(spread_examples(1), share=0.5, seed=0)


class Manifests:
    """Manifests of a store, by video id."""

    def __init__(self, records: dict[str, dict[str, Any]]) -> None:
        self.records = records

    def manifest(self, video_id: str) -> dict[str, Any] | None:
        return self.records.get(video_id)


def test_durations_that_the_annotations_lack_come_from_the_store() -> None:
    """Of a clip out of a longer file, the clip's own: its frames start at 10 s and end at 16 s."""
    examples = toy_examples(videos=3)
    store = Manifests(
        {
            "v0": {"duration": 60.0, "times": [10.0, 12.0], "decoded_until": 16.0},
            "v1": {"duration": 4.5},
            "v2": {"times": [0.0], "decoded_until": 3.0, "duration": None},
        }
    )
    found = with_store_durations(examples, store).durations
    assert found is not None and found.tolist() == [6.0, 4.5, 3.0]
    partly = replace(examples, durations=np.array([7.0, np.nan, 8.0], np.float32))
    found = with_store_durations(partly, store).durations
    assert found is not None and found.tolist() == [7.0, 4.5, 8.0]
    # A store of the published code has no manifests.
    assert with_store_durations(examples, Manifests({"v0": {"duration": 1.0}})).durations is None
