import pickle
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from dataloaders.datasets.msvd import SPEC, read_split

CAPTIONS = {"-a_b_1_9": ["a cat sits", "a cat"], "c_12_30": ["rain falls"]}


def write_list(folder: Path, *ids: str) -> Path:
    path = folder / "list.txt"
    path.write_text("".join(f"{video_id}\n" for video_id in ids), "utf-8")
    return path


def write_text(path: Path) -> None:
    lines = [f"{video_id} {caption}" for video_id, texts in CAPTIONS.items() for caption in texts]
    path.write_text("\n".join(["# all descriptions", "", *lines]) + "\n", "utf-8")


def write_table(path: Path) -> None:
    rows = ["VideoID,Start,End,WorkerID,Source,AnnotationTime,Language,Description"]
    rows += [f"-a_b,1,9,7,clean,20,English,{text}" for text in CAPTIONS["-a_b_1_9"]]
    rows += ["c,12,30,7,clean,20,German,Regen", "c,12,30,7,clean,20,English,rain falls"]
    path.write_text("\n".join([*rows, "c,12,30,7,clean,20,English,"]) + "\n", "utf-8")


def write_pickle(path: Path) -> None:
    content = {video_id: [text.split() for text in texts] for video_id, texts in CAPTIONS.items()}
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("AllVideoDescriptions.txt", write_text),
        ("video_corpus.csv", write_table),
        ("raw-captions.pkl", write_pickle),
    ],
)
def test_three_forms_of_the_same_captions(tmp_path: Path, name: str, write: Any) -> None:
    write(tmp_path / name)
    examples = read_split(tmp_path / name, write_list(tmp_path, "c_12_30", "-a_b_1_9"))
    assert list(examples.video_ids) == ["c_12_30", "-a_b_1_9"]
    assert list(examples.captions) == ["rain falls", "a cat sits", "a cat"]
    assert name in (SPEC.splits["test"].annotations, *SPEC.splits["test"].other_annotations)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "c_12_30\train falls\n", "line 1: must be VIDEO_START_END, a space and a caption"),
        ("a.txt", "", "is empty"),
        ("a.txt", "d_1_2 fog\n", "has no captions for 1 of the 1 videos"),
        ("a.csv", "VideoID,Start,End,Language\nc,12,30,English\n", "has no column 'Description'"),
        ("a.csv", "", "has no column 'VideoID'"),
        ("a.pkl", pickle.dumps([1]), "must hold {video id: "),
        ("a.pkl", pickle.dumps({"c_12_30": "rain"}), "entry 'c_12_30': must be"),
        ("a.pkl", pickle.dumps({"c_12_30": [[1]]}), "video c_12_30 has a caption that is no list of words"),
    ],
)
def test_files_of_another_form_are_one_line(tmp_path: Path, name: str, content: Any, message: str) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        read_split(tmp_path / name, write_list(tmp_path, "c_12_30"))
    assert message in str(error.value) and str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
