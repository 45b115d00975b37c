"""The real annotation files have as many videos and captions as papers say. Skipped where they are absent."""

import gzip
import json
import shutil
import zipfile
from pathlib import Path

import pytest

from dataloaders.datasets.known_splits import identify
from dataloaders.datasets.registry import DATASETS, default_files, read_examples
from dataloaders.datasets.spec import SplitFiles
from tests.dataloaders.toy import REALDATA, write_json

FOLDER = REALDATA / "annotations"


def real(name: str) -> Path:
    path = FOLDER / name
    if not path.is_file():
        pytest.skip("real annotation files are not there (../shared/realdata)")
    return path


def unpacked(name: str, folder: Path) -> Path:
    path = folder / Path(name).stem
    with gzip.open(real(name)) as packed, open(path, "wb") as file:
        shutil.copyfileobj(packed, file)
    return path


@pytest.mark.parametrize(
    ("dataset", "name", "known"),
    [("didemo", "test_data.json.gz", "test"), ("activitynet", "val_1.json.gz", "val_1")],
)
def test_paragraphs(tmp_path: Path, dataset: str, name: str, known: str) -> None:
    files = SplitFiles(unpacked(f"{dataset}/{name}", tmp_path), None, tmp_path)
    examples = read_examples(dataset, "test", language="english", files=files)
    found = identify(dataset, examples.video_ids)
    assert found is not None and found.name == known and "test" in found.serves
    assert examples.num_captions == found.captions
    split = DATASETS[dataset].split("test")
    assert split.repeats is not None and split.repeats.find(files.annotations) == []
    assert not any(split.faults(files).values())


@pytest.fixture(scope="module")
def msrvtt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with MSR-VTT's real files."""
    folder = tmp_path_factory.mktemp("data")
    merged: dict[str, list[object]] = {"videos": [], "sentences": []}
    for name in ("train_val_annotation.zip", "test_videodatainfo.json.zip"):
        with zipfile.ZipFile(real(f"msrvtt/{name}")) as packed:
            (member,) = (entry for entry in packed.namelist() if entry.endswith(".json"))
            content = json.loads(packed.read(member))
        for key in merged:
            merged[key] += content[key]
    (folder / "msrvtt").mkdir()
    write_json(folder / "msrvtt" / "MSRVTT_data.json", merged)
    for path in FOLDER.glob("msrvtt/*.csv"):
        shutil.copyfile(path, folder / "msrvtt" / path.name)
    return folder


@pytest.mark.parametrize(
    ("choice", "split", "name"),
    [
        *(("9k", "train", "train 9k"), ("9k", "test", "JSFusion 1k-A test"), ("7k", "train", "train 7k")),
        *(("full", "train", "full train"), ("full", "val", "full val"), ("full", "test", "full test")),
    ],
)
def test_every_split_of_msrvtt(msrvtt: Path, choice: str, split: str, name: str) -> None:
    files = default_files(msrvtt, "msrvtt", split, choice=choice)
    examples = read_examples("msrvtt", split, language="english", files=files)
    found = identify("msrvtt", examples.video_ids)
    assert found is not None and found.name == name and examples.num_captions == found.captions


def test_the_splits_of_msvd_share_one_source_video() -> None:
    span_of_id = DATASETS["msvd"].span_of_id
    assert span_of_id is not None
    sources = {}
    for name in ("train", "val", "test"):
        ids = real(f"msvd/{name}_list.txt").read_text(encoding="utf-8").split()
        spans = [span_of_id(video_id) for video_id in ids]
        assert all(spans), name
        sources[name] = {span.source for span in spans if span}
    assert not sources["test"] & (sources["train"] | sources["val"])
    assert sources["train"] & sources["val"] == {"bQJQGoJF7_k"}
