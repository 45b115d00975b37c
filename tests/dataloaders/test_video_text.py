from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import UserError
from dataloaders.augmentation import COLOUR_WIDTH
from dataloaders.colour_augmentation import augment_colours
from dataloaders.examples import Examples, ExamplesBuilder, merge_languages
from dataloaders.frame_source import FramesError
from dataloaders.frame_store.jpeg import Excess
from dataloaders.frame_store.reader import FrameStoreError
from dataloaders.tokenization import TokenizerPair
from dataloaders.video_text import MAX_UNREADABLE, VideoTextDataset
from tests.dataloaders.toy import ListStore, WordTokenizer, toy_examples

F, S, W = 4, 16, 8


def dataset(examples: Examples, store: ListStore | None = None, **settings: Any) -> VideoTextDataset:
    store = store or ListStore(dict.fromkeys(examples.video_ids, 30))
    defaults: dict[str, Any] = {"view": "pairs", "max_words": W, "max_frames": F, "image_size": S}
    return VideoTextDataset(examples, store, WordTokenizer(), **(defaults | settings))


def greys(sample: dict[str, torch.Tensor]) -> list[int]:
    """The frame numbers of the toy store's pictures, which are their greys."""
    return sample["frames"][:, 0, S // 2, S // 2].tolist()


def assert_same(first: dict[str, Any], second: dict[str, Any], *, but: set[str] = frozenset()) -> None:
    assert first.keys() == second.keys()
    for key in first.keys() - but:
        assert torch.equal(first[key], second[key]), key


PAIR_KEYS = {"frames", "frame_mask", "text_ids", "text_mask", "index", "video", "replaced"}
MLM_KEYS = {"text_mlm_ids", "text_mlm_labels"}
TAG_KEYS = {"tag_ids", "tag_mask", "tag_mlm_ids", "tag_mlm_labels"}


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        ({}, PAIR_KEYS),
        ({"mlm": True}, PAIR_KEYS | MLM_KEYS),
        (
            {"mlm": True, "max_tag_words": 5, "augment": "frame"},
            PAIR_KEYS | MLM_KEYS | TAG_KEYS | {"colours"},
        ),
        ({"view": "videos", "mlm": True, "augment": "frame"}, {"frames", "frame_mask", "index"}),
        ({"view": "captions", "mlm": True}, {"text_ids", "text_mask", "index"}),
    ],
)
def test_keys_types_and_shapes_are_the_documented_ones(settings: dict[str, Any], keys: set[str]) -> None:
    data = dataset(toy_examples(videos=3, captions_each=2, tags=True), **settings)
    sample = data[1]
    assert set(sample) == keys
    shapes = {"frames": (F, 3, S, S), "frame_mask": (F,), "index": (), "video": (), "replaced": ()}
    shapes["colours"] = (F, COLOUR_WIDTH)
    types = {"frames": torch.uint8, "frame_mask": torch.bool, "colours": torch.float32}
    for key, value in sample.items():
        words = 5 if key.startswith("tag") else W
        assert value.shape == shapes.get(key, (words,)), key
        assert value.dtype == types.get(key, torch.int64), key


def test_views_count_captions_or_videos() -> None:
    examples = toy_examples(videos=3, captions_each=2)
    assert [len(dataset(examples, view=view)) for view in ("pairs", "videos", "captions")] == [6, 3, 6]
    tokens = WordTokenizer().encode("clip 2 text 1", W)[0].tolist()
    assert dataset(examples, view="captions")[5]["text_ids"].tolist() == tokens
    assert dataset(examples)[5]["text_ids"].tolist() == tokens
    with pytest.raises(IndexError):
        dataset(examples, view="videos")[3]


def test_each_video_is_read_once_in_evaluation() -> None:
    examples = toy_examples(videos=3, captions_each=5)
    store = ListStore(dict.fromkeys(examples.video_ids, 30))
    for view in ("videos", "captions"):
        data = dataset(examples, store, view=view)
        for index in range(len(data)):
            data[index]
    assert store.reads == ["v0", "v1", "v2"]


def test_evaluation_samples_uniformly_whatever_is_asked() -> None:
    examples = toy_examples(videos=1)
    assert greys(dataset(examples, view="videos", frame_sample="random")[0]) == [0, 7, 15, 22]
    assert greys(dataset(examples, view="videos", frame_sample="random", max_frames=40)[0])[-1] == 29


def test_samples_follow_from_seed_epoch_and_index_alone() -> None:
    examples = toy_examples(videos=20, tags=True)
    settings: dict[str, Any] = {"frame_sample": "random", "augment": "frame", "mlm": True, "max_tag_words": 6}
    data = dataset(examples, seed=1, **settings)
    first = data[(2, 7)]
    data[(0, 3)], np.random.rand(), torch.rand(1)
    assert_same(first, dataset(examples, seed=1, **settings)[(2, 7)])
    assert_same(data[5], data[(0, 5)])
    plain = dataset(examples, seed=1, frame_sample="random")
    draws = {tuple(greys(plain[(epoch, index)])) for epoch in range(5) for index in range(20)}
    assert len(draws) > 90
    assert greys(plain[(0, 0)]) != greys(dataset(examples, seed=2, frame_sample="random")[(0, 0)])


def test_dynamic_length_pads_and_masks() -> None:
    examples = toy_examples(videos=1, duration=7.0)
    sample = dataset(examples, max_frames=6, frame_sample_len="dynamic", duration_factor=0.5)[0]
    assert sample["frame_mask"].tolist() == [True, True, True, False, False, False]
    assert greys(sample) == [0, 10, 20, 0, 0, 0] and not sample["frames"][3:].any()
    assert dataset(examples, max_frames=6)[0]["frame_mask"].all()


def test_dynamic_length_needs_durations() -> None:
    with pytest.raises(UserError, match="--frame_sample_len dynamic: 3 of 3 videos have no duration"):
        dataset(toy_examples(videos=3), frame_sample_len="dynamic")
    # A model trained with dynamic lengths may be evaluated on a data set that has no durations.
    evaluation = dataset(toy_examples(videos=3), frame_sample_len="dynamic", view="videos")
    assert evaluation[0]["frame_mask"].all()


def test_stored_frames_are_counted_without_absent_videos() -> None:
    examples = toy_examples(videos=5)
    store = ListStore(dict(zip(list(examples.video_ids)[:4], (30, 12, 30, 8), strict=True)))
    assert dataset(examples, store).probe_stored_frames().tolist() == [30, 12, 30, 8]


def test_random_sampling_of_more_than_stored_is_refused_at_once() -> None:
    examples = toy_examples(videos=2)
    with pytest.raises(UserError, match="--frame_sample random cannot choose 31 of 30 stored frames"):
        dataset(examples, frame_sample="random", max_frames=31)
    dataset(examples, frame_sample="uniform", max_frames=31)[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frame_sample": "all"}, "--frame_sample all"),
        ({"frame_sample_len": "long"}, "--frame_sample_len long"),
        ({"max_words": 2}, "--max_words 2"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataset(toy_examples(videos=1), **settings)


def test_an_unreadable_video_is_replaced_by_the_next_one() -> None:
    examples = toy_examples(videos=4, captions_each=3)
    store = ListStore({"v0": 30, "v1": 30, "v3": 30}, unreadable=["v1"])
    data = dataset(examples, store, frame_sample="random", mlm=True)
    for index in (3, 5, 6, 8):
        sample = data[(1, index)]
        assert sample["replaced"] == 1 and sample["index"] == 9 and sample["video"] == 3
        assert_same(sample, data[(1, 9)], but={"replaced"})
    assert data[(1, 2)]["replaced"] == 0 and data[(1, 2)]["video"] == 0
    assert store.reads.count("v1") == 2, "three captions of one unreadable video cost one try"


def test_a_replaced_video_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    data = dataset(toy_examples(videos=2), ListStore({"v0": 30, "v1": 30}, unreadable=["v0"]))
    data[0], data[(1, 0)]
    assert [record.getMessage() for record in caplog.records] == [
        "replaced an unreadable video: frame store list-store: video v0, frame 0: cut off"
    ]


def test_replacement_goes_around_the_end_and_covers_short_videos() -> None:
    examples = toy_examples(videos=3)
    data = dataset(examples, ListStore({"v0": 30, "v1": 30, "v2": 3}), frame_sample="random")
    sample = data[2]
    assert sample["replaced"] == 1 and sample["index"] == 0


def test_a_store_that_cannot_be_read_at_all_stops_training() -> None:
    examples = toy_examples(videos=MAX_UNREADABLE + 5)
    store = ListStore(dict.fromkeys(examples.video_ids, 30), unreadable=list(examples.video_ids))
    with pytest.raises(FrameStoreError, match="video v"):
        dataset(examples, store)[2]
    assert len(store.reads) == MAX_UNREADABLE


def test_evaluation_never_replaces() -> None:
    examples = toy_examples(videos=2)
    data = dataset(examples, ListStore({"v0": 30}), view="videos")
    data[0]
    with pytest.raises(FramesError, match="video v1 is not in the frame store list-store"):
        data[1]
    with pytest.raises(FrameStoreError, match="list-store: video v0, frame 0"):
        dataset(examples, ListStore({"v0": 30}, unreadable=["v0"]), view="videos")[0]


def test_tags_are_left_out_unless_asked_for() -> None:
    assert set(dataset(toy_examples(videos=1, tags=True))[0]) == PAIR_KEYS
    assert set(dataset(toy_examples(videos=1), max_tag_words=5)[0]) == PAIR_KEYS


def test_truncated_captions_are_counted() -> None:
    examples = toy_examples(videos=50, captions_each=2)
    for words, limit, counts in ((5, 1000, (100, 100)), (6, 1000, (100, 0)), (5, 10, (10, 10))):
        sample = dataset(examples, max_words=words).inspect_captions(limit=limit)
        assert (sample.captions, sample.truncated) == counts


def test_unknown_tokens_are_counted_without_start_and_end() -> None:
    made = ExamplesBuilder()
    made.add("v0", "a ? ? b")
    made.add("v0", "")
    sample = dataset(made.build(), max_words=8).inspect_captions()
    assert (sample.tokens, sample.unknown, sample.unknown_share) == (4, 2, 0.5)


def augmented(**settings: Any) -> VideoTextDataset:
    return dataset(toy_examples(videos=3, duration=8.0), NoiseStore(), augment="frame", seed=5, **settings)


def test_colours_may_be_changed_here_or_later() -> None:
    for index in range(3):
        later, here = augmented()[(1, index)], augmented(colours_here=True)[(1, index)]
        assert not torch.equal(later["frames"], here["frames"])
        augment_colours(later["frames"], later.pop("colours"))
        assert_same(later, here)


def test_padding_is_not_augmented() -> None:
    sample = augmented(frame_sample_len="dynamic", max_frames=6)[0]
    assert sample["frame_mask"].tolist() == [True] * 4 + [False] * 2
    assert sample["colours"][:4].any(1).all() and not sample["colours"][4:].any()
    assert not augmented(frame_sample_len="dynamic", max_frames=6, colours_here=True)[0]["frames"][4:].any()


def test_an_augmentation_may_be_that_of_the_clip() -> None:
    store = ListStore(dict.fromkeys(("v0", "v1"), 30))
    for per, different in (("frame", F), ("clip", 1)):
        sample = dataset(toy_examples(videos=2), store, augment=per)[0]
        assert len(np.unique(sample["colours"].numpy(), axis=0)) == different


@pytest.mark.parametrize("augment", [None, "frame"])
def test_only_training_may_decode_at_a_part_of_the_size(augment: str | None) -> None:
    store = NoiseStore()
    examples = toy_examples(videos=1)
    for view, scaled, expected in (("pairs", True, True), ("pairs", False, False), ("videos", True, False)):
        dataset(examples, store, view=view, scaled_decoding=scaled, augment=augment)[0]
        assert (store.excess is not None) is expected
        if store.excess is not None:
            times = [each(64, 96) for each in store.excess]
            assert len(times) == F and (augment is not None or times == [64 / S] * F)


class NoiseStore:
    """Frames of noise; it remembers how much too large the last ones may have been."""

    excess: Sequence[Excess] | None = None

    def num_frames(self, video_id: str) -> int:
        return 30

    def iter_frames(
        self, video_id: str, indices: Sequence[int], excess: Sequence[Excess] | None = None
    ) -> list[np.ndarray]:
        self.excess = excess
        rng = np.random.default_rng(len(video_id))
        return [rng.integers(0, 256, (64, 96, 3), dtype=np.uint8) for _ in indices]

    def read_jpegs(self, video_id: str, indices: Sequence[int]) -> list[bytes]:
        raise AssertionError(video_id)


class ChineseTokenizer(WordTokenizer):
    """Other ids than those of its base."""

    unknown_ids = (995,)
    start_token_id = 990

    def encode(self, text: str, max_words: int) -> Any:
        ids, mask, cut = super().encode(text, max_words)
        ids[0] = self.start_token_id
        return ids, mask, cut


def test_each_text_of_two_languages_has_the_tokens_of_its_own() -> None:
    part = toy_examples(videos=2, captions_each=2, tags=True)
    examples = merge_languages([part, part])
    store = ListStore(dict.fromkeys(examples.video_ids, 30))
    settings: dict[str, Any] = {"max_words": W, "max_frames": F, "image_size": S, "max_tag_words": W}
    pair = TokenizerPair((WordTokenizer(), ChineseTokenizer()))
    for view in ("pairs", "captions"):
        data = VideoTextDataset(examples, store, pair, view=view, **settings)
        for index, start in ((3, 998), (4, 990)):
            sample = data[(5, index)]
            assert int(sample["language"]) == index // 4 and int(sample["text_ids"][0]) == start
            assert view == "captions" or int(sample["tag_ids"][0]) == start
    assert data.inspect_captions(language=1).captions == 4 and data.inspect_captions().captions == 8
    assert "language" not in dataset(part)[0]


def test_frames_after_the_first_seconds_are_not_used() -> None:
    class TimedStore(ListStore):
        def manifest(self, video_id: str) -> dict[str, Any]:
            return {"times": [10.0 * index for index in range(6)]}

    examples = toy_examples(videos=1, duration=60.0)
    short = dataset(examples, TimedStore({"v0": 6}), view="videos", max_frames=3, first_seconds=30.0)
    assert short[0]["frames"][:, 0, 0, 0].tolist() == [0, 1, 2]
    dynamic = {"frame_sample_len": "dynamic", "duration_factor": 0.1}
    long = dataset(examples, TimedStore({"v0": 6}), view="videos", max_frames=6, **dynamic)
    assert long[0]["frame_mask"].sum() == 6
    short = dataset(
        examples, TimedStore({"v0": 6}), view="videos", max_frames=6, first_seconds=30.0, **dynamic
    )
    assert short[0]["frame_mask"].sum() == 3
