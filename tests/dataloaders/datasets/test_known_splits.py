import csv
import gzip
import time
from dataclasses import replace

import pytest

from dataloaders.datasets.files import read_csv
from dataloaders.datasets.known_splits import (
    describe_split,
    identify,
    is_published_test,
    leaks,
    list_digest,
    name_mismatch,
    pairs_digest,
)
from dataloaders.datasets.registry import DATASETS
from dataloaders.datasets.spec import SPLITS, KnownList
from dataloaders.examples import Examples, ExamplesBuilder
from tests.dataloaders.toy import REALDATA

REAL_LISTS = {
    "msrvtt/MSRVTT_JSFUSION_test.csv": "JSFusion 1k-A test",
    "msrvtt/MSRVTT_train.9k.csv": "train 9k",
    "msrvtt/MSRVTT_train.7k.csv": "train 7k",
    "msrvtt/MSRVTT_train.full.csv": "full train",
    "msrvtt/MSRVTT_val.full.csv": "full val",
    "msrvtt/MSRVTT_test.full.csv": "full test",
    "vatex/train_list.txt.gz": "published train",
    "vatex/val_list.txt": "published val",
    "vatex/test_list.txt": "published test",
    "vatex/test1k5_sec_list.txt": "random test1k5",
    "msvd/train_list.txt": "train",
    "msvd/val_list.txt": "val",
    "msvd/test_list.txt": "test",
}
READ_WHOLE = ("test", "val_1")  # DiDeMo's and ActivityNet's, in test_real_annotations.py


def real_ids(name: str) -> list[str]:
    path = REALDATA / "annotations" / name
    if not path.is_file():
        pytest.skip("real split lists are not there (../shared/realdata)")
    if path.suffix == ".csv":
        with open(path, encoding="utf-8-sig", newline="") as file:
            return [row["video_id"] for row in csv.DictReader(file)]
    content = path.read_bytes()
    return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8").split()


def of(pairs: list[tuple[str, str]]) -> Examples:
    builder = ExamplesBuilder()
    for video_id, caption in pairs:
        builder.add(video_id, caption)
    return builder.build()


@pytest.mark.parametrize(("name", "expected"), REAL_LISTS.items())
def test_real_lists_are_known_in_any_order(name: str, expected: str) -> None:
    ids, dataset = real_ids(name), name.split("/")[0]
    known = identify(dataset, reversed(ids))
    assert known is not None and known.name == expected and known.videos == len(ids)
    assert identify(dataset, ids[1:]) is None
    assert identify(dataset, [*ids[1:], "another"]) is None


def test_the_two_test_lists_of_vatex_are_told_apart() -> None:
    published, random = (set(real_ids(f"vatex/{n}.txt")) for n in ("test_list", "test1k5_sec_list"))
    assert len(published & random) == 724
    pairs = [(video_id, "text") for video_id in random]
    text = describe_split("vatex", "test", of(pairs))
    assert "random test1k5 list (1,500 videos)" in text and "not comparable" in text
    text = describe_split("vatex", "test", of([(video_id, "text") for video_id in published]))
    assert text.endswith("published test list (1,500 videos); id for id CLIP2Video's HGR list")


def test_every_entry_names_a_data_set_and_splits() -> None:
    lists = [known for spec in DATASETS.values() for known in spec.known_lists]
    hashes = [known.sha256 for known in lists if known.sha256]
    assert len(set(hashes)) == len(hashes) == len(REAL_LISTS) + len(READ_WHOLE)
    for known in lists:
        assert set(known.serves) <= set(SPLITS)
        assert len(known.sha256) in (0, 64) and known.videos > 0


def test_sentences_of_the_published_pairs() -> None:
    path = REALDATA / "annotations" / "msrvtt" / "MSRVTT_JSFUSION_test.csv"
    if not path.is_file():
        pytest.skip("real split lists are not there (../shared/realdata)")
    pairs = [row for _, row in read_csv(path, ["video_id", "sentence"])]
    text = describe_split("msrvtt", "test", of([(video, caption) for video, caption in reversed(pairs)]))
    assert text == "msrvtt test: JSFusion 1k-A test list (1,000 videos)"
    text = describe_split("msrvtt", "test", of([(video, caption.upper()) for video, caption in pairs]))
    assert text.endswith("the sentences differ from the published ones")


def test_results_are_comparable_on_a_published_test_list_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = of([("v0", "a"), ("v1", "b")])
    digest = list_digest(["v0", "v1"])
    for serves, expected in ((("val", "test"), True), (("train",), False)):
        known = KnownList("small", 2, digest, serves, pairs_sha256=pairs_digest(whole))
        spec = replace(DATASETS["msrvtt"], known_lists=(known,))
        monkeypatch.setitem(DATASETS, "msrvtt", spec)
        assert is_published_test("msrvtt", whole) is expected
    known = replace(known, serves=("test",))
    monkeypatch.setitem(DATASETS, "msrvtt", replace(spec, known_lists=(known,)))
    assert not is_published_test("msrvtt", of([("v0", "a"), ("v1", "another")]))
    assert not is_published_test("msrvtt", of([("v0", "a"), ("v2", "b")]))
    assert not is_published_test("vatex", whole)


def test_digest_is_of_the_set() -> None:
    assert list_digest(["b", "a", "a"]) == list_digest(["a", "b"]) != list_digest(["ab"])


def test_an_unknown_list_is_reported_with_the_published_ones() -> None:
    text = describe_split("msrvtt", "test", of([("v0", "a"), ("v1", "b")]))
    assert text.startswith("msrvtt test: 2 videos, not a published list")
    assert "JSFusion 1k-A test 1,000" in text and "train 9k" not in text
    assert describe_split("chvtt", "train", of([("v0", "a")])).endswith("not a published list")


def test_a_known_list_in_a_wrong_place() -> None:
    ids = real_ids("msrvtt/MSRVTT_train.9k.csv")
    text = describe_split("msrvtt", "test", of([(video_id, "a") for video_id in ids]))
    assert "papers use it for pretrain and train, not for test" in text


@pytest.mark.parametrize(
    ("dataset", "name", "count", "expected"),
    [
        ("msrvtt", "a/MSRVTT_train.9k.csv", 8_999, "9,000"),
        ("msrvtt", "MSRVTT_train.7k.csv", 7_000, "7,010"),
        ("msrvtt", "MSRVTT_JSFUSION_test.csv", 8, "1,000"),
        ("msrvtt", "MSRVTT_test.full.csv", 1_000, "2,990"),
        ("vatex", "test1k5_sec_list.txt", 1_335, "1,500"),
    ],
)
def test_names_that_imply_a_count(dataset: str, name: str, count: int, expected: str) -> None:
    message = name_mismatch(dataset, name, num_videos=count)
    assert message is not None and name in message and f"its name implies {expected}" in message
    assert name_mismatch(dataset, name, num_videos=int(expected.replace(",", ""))) is None


def test_names_that_imply_nothing() -> None:
    assert name_mismatch("msrvtt", "mine99k.csv", num_videos=3) is None
    assert name_mismatch("vatex", "test_list.txt", num_videos=3) is None
    assert name_mismatch("chvtt", None, num_videos=3) is None


def test_leaks_of_videos_and_captions() -> None:
    train = of([("a", "A  man sings"), ("b", "rain"), ("c", "")])
    test = of([("b", "snow"), ("d", " a man sings "), ("e", ""), ("d", "a man  SINGS")])
    found = leaks(train, test)
    assert found and found.videos == ("b",)
    assert len(found.captions) == 1
    assert str(found) == (
        "test videos in the training set: 1 (b); test captions whose text is in the training set: 1"
    )
    clean = leaks(train, of([("x", "fog")]))
    assert not clean and str(clean) == "training and test share no video and no caption"


def test_leaks_of_180000_captions_in_seconds() -> None:
    train = of([(f"v{i // 20}", f"caption number {i}") for i in range(180_000)])
    test = of([(f"w{i}", f"caption number {i}") for i in range(1000)])
    begin = time.perf_counter()
    found = leaks(train, test)
    assert time.perf_counter() - begin < 10
    assert not found and len(found.captions) == 1000


def test_a_list_of_which_only_the_size_is_known_is_not_said_to_be_that_list() -> None:
    same_size = of([(f"v{number}", "a") for number in range(1_000)])
    text = describe_split("lsmdc", "test", same_size)
    assert text == "lsmdc test: 1,000 videos, as many as in the published list 1,000 test clips"
    assert identify("lsmdc", same_size.video_ids) is None and not is_published_test("lsmdc", same_size)
    text = describe_split("lsmdc", "test", of([("v", "a")]))
    assert text.endswith("1 videos, not a published list (validation 7,408, 1,000 test clips 1,000)")
