from dataloaders.datasets.splits import exclude_missing, match_store_ids
from dataloaders.examples import ExamplesBuilder
from tests.dataloaders.toy import ListStore, toy_examples


def test_absent_videos_are_left_out_counted_and_named() -> None:
    examples = toy_examples(videos=8, captions_each=2)
    kept, missing = exclude_missing(examples, ListStore({"v1": 30, "v7": 1}))
    assert list(kept.video_ids) == ["v1", "v7"] and kept.num_captions == 4
    assert missing and missing.count == 6 and missing.total == 8
    assert str(missing) == "6 of 8 videos are absent from the frame store: v0, v2, v3, v4, v5, ..."


def test_nothing_absent() -> None:
    examples = toy_examples(videos=2)
    kept, missing = exclude_missing(examples, ListStore({"v0": 3, "v1": 3}))
    assert kept is examples and not missing


def test_chvtt_ids_follow_the_store() -> None:
    builder = ExamplesBuilder()
    for docid in ("1", "2", "3"):
        builder.add(f"Video{docid}", "text")
    examples = builder.build()
    assert match_store_ids(examples, ListStore({"Video3": 48})) is examples
    assert match_store_ids(examples, ListStore({"other": 48})) is examples
    assert list(match_store_ids(examples, ListStore({"2": 48})).video_ids) == ["1", "2", "3"]
