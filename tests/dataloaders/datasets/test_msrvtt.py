import json
import time
import zipfile
from pathlib import Path

import pytest

from common.errors import UserError
from dataloaders.datasets.known_splits import identify
from dataloaders.datasets.msrvtt import read_captions_of_list, read_test, read_validation
from tests.dataloaders.toy import REALDATA, write_json

REAL = REALDATA / "annotations" / "msrvtt"


def annotations(folder: Path) -> Path:
    sentences = [{"video_id": f"video{i % 3}", "caption": f"caption {i}", "sen_id": i} for i in range(6)]
    return write_json(folder / "MSRVTT_data.json", {"videos": [], "sentences": sentences})


def test_every_caption_of_listed_videos(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("video_id\nvideo2\nvideo0\nvideo2\n", "utf-8")
    examples = read_captions_of_list(annotations(tmp_path), tmp_path / "list.csv")
    pairs = [(examples.video_id_of(i), examples.captions[i]) for i in range(examples.num_captions)]
    assert pairs == [
        ("video0", "caption 0"),
        ("video2", "caption 2"),
        ("video0", "caption 3"),
        ("video2", "caption 5"),
    ]
    assert examples.num_videos == 2


def test_listed_videos_without_captions_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("video_id\nvideo0\nvideo8\n", "utf-8")
    with pytest.raises(UserError, match="no captions for 1 of the 2 videos in .*list.csv: video8"):
        read_captions_of_list(annotations(tmp_path), tmp_path / "list.csv")


def test_test_pairs_need_no_annotations(tmp_path: Path) -> None:
    csv = tmp_path / "MSRVTT_JSFUSION_test.csv"
    csv.write_text(
        'key,vid_key,video_id,sentence\nret0,msr1,007,null\nret1,msr2,v,"a, b"\nret2,msr2,v,\n', "utf-8"
    )
    examples = read_test(tmp_path / "absent.json", csv)
    assert list(examples.video_ids) == ["007", "v"]
    assert list(examples.captions) == ["null", "a, b", ""]
    assert examples.video_of_caption.tolist() == [0, 1, 1]


def test_full_test_takes_captions_from_the_annotations(tmp_path: Path) -> None:
    (tmp_path / "test.full.csv").write_text("video_id\nvideo1\n", "utf-8")
    examples = read_test(annotations(tmp_path), tmp_path / "test.full.csv")
    assert list(examples.captions) == ["caption 1", "caption 4"]
    with pytest.raises(UserError, match="no column 'sentence'"):
        read_test(None, tmp_path / "test.full.csv")


def test_validation_videos_come_from_the_annotations(tmp_path: Path) -> None:
    videos = [{"video_id": f"video{i}", "split": s} for i, s in enumerate(("train", "validate", "test"))]
    sentences = [{"video_id": f"video{i % 3}", "caption": f"caption {i}"} for i in range(6)]
    path = write_json(tmp_path / "MSRVTT_data.json", {"videos": videos, "sentences": sentences})
    assert list(read_validation(path).captions) == ["caption 1", "caption 4"]
    write_json(path, {"videos": videos, "sentences": sentences[:1]})
    with pytest.raises(UserError, match="no captions for 1 of the 1 videos .*: video1"):
        read_validation(path)


@pytest.mark.parametrize("videos", [[], None, [{"video_id": "video0"}], ["video0"]])
def test_without_validation_videos_the_error_names_another_flag(tmp_path: Path, videos: object) -> None:
    path = write_json(tmp_path / "MSRVTT_data.json", {"videos": videos, "sentences": []})
    with pytest.raises(UserError, match="MSRVTT_data.json: no entry of 'videos' .*--select_on held_out"):
        read_validation(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "must be a JSON object with a list 'sentences'"),
        ({"sentences": [{"video_id": "v", "caption": 3}]}, r"sentences\[0\] must hold the strings"),
        ({"sentences": ["text"]}, r"sentences\[0\] must hold the strings"),
    ],
)
def test_annotations_of_another_form(tmp_path: Path, content: object, message: str) -> None:
    (tmp_path / "list.csv").write_text("video_id\nv\n", "utf-8")
    with pytest.raises(UserError, match=f"data.json.*{message}"):
        read_captions_of_list(write_json(tmp_path / "data.json", content), tmp_path / "list.csv")


@pytest.fixture(scope="module")
def real_annotations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MSRVTT_data.json put together from the official files."""
    if not REAL.is_dir():
        pytest.skip("real MSR-VTT annotations are not there (../shared/realdata)")
    merged: dict[str, list[object]] = {"videos": [], "sentences": []}
    for archive, name in [
        ("train_val_annotation.zip", "train_val_videodatainfo.json"),
        ("test_videodatainfo.json.zip", "test_videodatainfo.json"),
    ]:
        content = json.loads(zipfile.ZipFile(REAL / archive).read(name))
        merged["videos"] += content["videos"]
        merged["sentences"] += content["sentences"]
    return write_json(tmp_path_factory.mktemp("msrvtt") / "MSRVTT_data.json", merged)


@pytest.mark.parametrize(("name", "videos"), [("9k", 9000), ("7k", 7010), ("full", 6513)])
def test_real_training_counts_in_seconds(real_annotations: Path, name: str, videos: int) -> None:
    begin = time.perf_counter()
    examples = read_captions_of_list(real_annotations, REAL / f"MSRVTT_train.{name}.csv")
    assert time.perf_counter() - begin < 10
    assert (examples.num_videos, examples.num_captions) == (videos, 20 * videos)


def test_real_test_counts(real_annotations: Path) -> None:
    pairs = read_test(real_annotations, REAL / "MSRVTT_JSFUSION_test.csv")
    assert (pairs.num_videos, pairs.num_captions) == (1000, 1000)
    assert pairs.video_of_caption.tolist() == list(range(1000))
    assert pairs.captions[0] == "a person is connecting something to system"
    full = read_test(real_annotations, REAL / "MSRVTT_test.full.csv")
    assert (full.num_videos, full.num_captions) == (2990, 20 * 2990)


def test_real_validation_counts(real_annotations: Path) -> None:
    examples = read_validation(real_annotations)
    assert (examples.num_videos, examples.num_captions) == (497, 20 * 497)
    known = identify("msrvtt", examples.video_ids)
    assert known is not None and known.name == "full val"
