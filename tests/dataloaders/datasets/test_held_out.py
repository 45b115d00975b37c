import numpy as np
import pytest

from dataloaders.datasets.held_out import hold_out
from dataloaders.examples import Examples, ExamplesBuilder


def examples(videos: int, *, captions: int = 3, order: list[int] | None = None) -> Examples:
    """Captions of a video stand apart, as in CHVTT's queries; the tag of each names its video."""
    builder = ExamplesBuilder()
    for caption in range(captions):
        for video in order or range(videos):
            builder.add(f"v{video}", f"caption {caption} of v{video}", tag=f"v{video}", duration=video)
    return builder.build()


def test_all_captions_of_a_video_go_together_and_none_is_lost() -> None:
    whole = examples(100)
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
    first = set(hold_out(examples(50), share=0.2, seed=1)[1].video_ids)
    assert len(first) == 10
    assert set(hold_out(examples(50, order=shuffled), share=0.2, seed=1)[1].video_ids) == first
    assert set(hold_out(examples(50), share=0.2, seed=2)[1].video_ids) != first


@pytest.mark.parametrize(("share", "held"), [(0.001, 1), (0.999, 9), (0.5, 5)])
def test_at_least_one_video_on_either_side(share: float, held: int) -> None:
    assert hold_out(examples(10), share=share, seed=0)[1].num_videos == held


def test_one_video_cannot_be_parted() -> None:
    with pytest.raises(ValueError, match="--select_on held_out: needs at least 2 training videos, not 1"):
        hold_out(examples(1), share=0.5, seed=0)
