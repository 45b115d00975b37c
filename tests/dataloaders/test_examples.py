import pickle

import numpy as np
import pytest

from dataloaders.examples import Examples, ExamplesBuilder, PackedStrings, merge_languages
from tests.dataloaders.toy import toy_examples

STRINGS = ["", "null", "一个人", "a b", "😀", "naïve", "", "nul\0char"]


def test_packed_strings_come_back_exactly() -> None:
    packed = PackedStrings.from_iterable(STRINGS)
    assert list(packed) == STRINGS
    assert len(packed) == len(STRINGS)
    assert packed[-2] == "" and packed[-1] == "nul\0char" and packed[np.int64(2)] == "一个人"
    assert list(pickle.loads(pickle.dumps(packed))) == STRINGS


def test_packed_strings_of_nothing_and_outside() -> None:
    empty = PackedStrings.from_iterable([])
    assert len(empty) == 0 and list(empty) == []
    with pytest.raises(IndexError):
        empty[0]
    with pytest.raises(IndexError):
        PackedStrings.from_iterable(["a"])[1]


def test_half_a_character_is_replaced_instead_of_failing() -> None:
    assert PackedStrings.from_iterable(["a\ud83db"])[0] == "a?b"


def test_builder_numbers_videos_by_first_appearance() -> None:
    builder = ExamplesBuilder()
    builder.add("b", "one", tag="t1", duration=3.0)
    builder.add("a", "two", tag="t2")
    builder.add("b", "three", tag="t3", duration=9.0)
    examples = builder.build()
    assert list(examples.video_ids) == ["b", "a"]
    assert examples.video_of_caption.tolist() == [0, 1, 0]
    assert examples.tags is not None and list(examples.tags) == ["t1", "t2", "t3"]
    assert examples.durations is not None and examples.durations[0] == 3.0 and np.isnan(examples.durations[1])
    assert examples.video_id_of(2) == "b"


def test_durations_and_tags_are_none_where_nothing_has_them() -> None:
    builder = ExamplesBuilder()
    builder.add("a", "one")
    examples = builder.build()
    assert examples.durations is None and examples.tags is None


def test_keep_videos_keeps_captions_tags_and_durations_together() -> None:
    builder = ExamplesBuilder()
    for position, video in enumerate(["a", "b", "c", "a", "c"]):
        builder.add(video, f"caption {position}", tag=f"tag {position}", duration=float(ord(video)))
    kept = builder.build().keep_videos(np.array([False, True, True]))
    assert list(kept.video_ids) == ["b", "c"]
    assert [(kept.captions[i], kept.video_id_of(i)) for i in range(kept.num_captions)] == [
        ("caption 1", "b"),
        ("caption 2", "c"),
        ("caption 4", "c"),
    ]
    assert kept.tags is not None and list(kept.tags) == ["tag 1", "tag 2", "tag 4"]
    assert kept.durations is not None and kept.durations.tolist() == [98.0, 99.0]


def test_a_caption_without_a_video_is_a_broken_invariant() -> None:
    one = PackedStrings.from_iterable(["x"])
    with pytest.raises(AssertionError):
        Examples(one, one, np.array([1]))


def test_videos_with_captions_in_one_language_only() -> None:
    def part(*videos: tuple[str, float | None]) -> Examples:
        builder = ExamplesBuilder()
        for video_id, duration in videos:
            builder.add(video_id, f"of {video_id}", duration=duration)
        return builder.build()

    both = merge_languages([part(("b", None), ("a", None)), part(("a", 2.0), ("c", None))])
    assert list(both.video_ids) == ["b", "a", "c"]
    assert [both.video_id_of(number) for number in range(4)] == ["b", "a", "a", "c"]
    assert [both.captions[number] for number in range(4)] == ["of b", "of a", "of a", "of c"]
    assert both.durations is not None
    np.testing.assert_equal(both.durations, np.array([np.nan, 2.0, np.nan], np.float32))


def test_the_captions_of_two_languages_become_one_split() -> None:
    english, chinese = toy_examples(videos=3, captions_each=2, tags=True), toy_examples(videos=3, tags=True)
    both = merge_languages([english, chinese])
    assert both.num_videos == 3 and both.num_captions == 9
    assert both.languages is not None and both.languages.tolist() == [0] * 6 + [1] * 3
    assert both.video_id_of(7) == "v1" and both.captions[7] == chinese.captions[1]
    for number, part in enumerate((english, chinese)):
        again = both.in_language(number)
        assert list(again.captions) == list(part.captions) and again.tags is not None
        assert again.video_of_caption.tolist() == part.video_of_caption.tolist()
        assert list(again.tags) == list(part.tags or ())
        assert again.languages is not None and set(again.languages.tolist()) == {number}
    kept = both.keep_videos(np.array([True, False, True]))
    assert kept.languages is not None and kept.languages.tolist() == [0] * 4 + [1] * 2
