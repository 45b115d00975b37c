import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import UserError
from dataloaders.datasets.registry import (
    DATASETS,
    dataset_spec,
    default_files,
    read_examples,
    read_test_ids,
    require_choice,
    zero_shot_dataset,
)
from dataloaders.datasets.spec import SPLITS, VALIDATION, SplitFiles
from tests.dataloaders.toy import REALDATA, write_json, write_lines

ROOT = Path(__file__).resolve().parents[3]
CASES = [
    (dataset, split, language)
    for dataset, spec in DATASETS.items()
    for split in SPLITS
    for language in spec.languages
]


def write_all(folder: Path) -> None:
    """Write every data set, with one video, at its default place."""
    for dataset in DATASETS:
        (folder / dataset).mkdir()
    write_json(folder / "msrvtt/MSRVTT_data.json", {"sentences": [{"video_id": "v", "caption": "english"}]})
    (folder / "msrvtt/MSRVTT_train.9k.csv").write_text("video_id\nv\n", "utf-8")
    (folder / "msrvtt/MSRVTT_JSFUSION_test.csv").write_text("video_id,sentence\nv,english\n", "utf-8")
    write_json(folder / "vatex/vatex_data.json", {"v": {"enCap": ["english"], "chCap": ["chinese"]}})
    for name in ("train", "val", "test"):
        (folder / f"vatex/{name}_list.txt").write_text("v\n", "utf-8")
    info = {
        "docid": "v",
        "duration": 1,
        "title": "chinese",
        "title_eng": "english",
        "tag": "t",
        "tag_eng": "t",
    }
    query = {"query": "chinese", "query_eng": "english", "videolist": [info]}
    write_lines(folder / "chvtt/videoinfo_bilingual.json", [info])
    write_lines(folder / "chvtt/query_data_train_bilingual.json", [query])
    write_lines(folder / "chvtt/query_data_val_bilingual.json", [query])
    (folder / "msvd/AllVideoDescriptions.txt").write_text("v_1_9 english\n", "utf-8")
    for name in ("train", "val", "test"):
        (folder / f"msvd/{name}_list.txt").write_text("v_1_9\n", "utf-8")
        moment = {"video": "v.mp4", "description": "english", "times": [[0, 1]], "num_segments": 6}
        write_json(folder / f"didemo/{name}_data.json", [moment])
    for name in ("annos_training", "annos_val", "challenge_1000_publictect"):
        (folder / f"lsmdc/LSMDC16_{name}.csv").write_text("v\t0\t1\t0\t1\tenglish\n", "utf-8")
    entry = {"duration": 9.0, "timestamps": [[0, 9]], "sentences": ["english"]}
    for name in ("train", "val_1"):
        write_json(folder / f"activitynet/{name}.json", {"v_1": entry})


def test_flags_can_be_checked_without_heavy_imports() -> None:
    code = "import sys, dataloaders.datasets.registry; "
    code += "print({'torch', 'torchvision', 'transformers', 'pandas', 'cv2', 'lmdb'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) == "set()\n"


def texts_of(path: Path) -> list[str]:
    """The string literals of a file, docstrings left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    strings = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    described = (ast.Module, ast.ClassDef, ast.FunctionDef)
    bodies = [node.body[0] for node in ast.walk(tree) if isinstance(node, described) and node.body]
    docstrings = {id(first.value) for first in bodies if isinstance(first, ast.Expr)}
    return [string.value for string in strings if id(string) not in docstrings]


def test_only_the_files_of_the_data_sets_name_them() -> None:
    names = [name for spec in DATASETS.values() for name in (spec.name, *spec.aliases)]
    named = re.compile(rf"\b({'|'.join(names)})\b", re.IGNORECASE)
    packages = ("common", "modules", "dataloaders", "video", "engine", "search", "demo", "tools")
    home = (ROOT / "dataloaders" / "datasets", ROOT / "tools" / "toy")  # readers, and writers of toy forms
    for path in (path for package in packages for path in (ROOT / package).rglob("*.py")):
        if path.parent not in home:
            found = [text for text in texts_of(path) if named.search(text)]
            assert not found, f"{path}: ask its DatasetSpec"


def test_names_and_aliases_are_found_and_are_no_one_elses() -> None:
    names = [name for spec in DATASETS.values() for name in (spec.name, *spec.aliases)]
    assert len(set(names)) == len(names)
    assert dataset_spec("bird") is DATASETS["chvtt"]
    for language, dataset in (("english", "msrvtt"), ("chinese", "vatex"), ("bilingual", "vatex")):
        assert zero_shot_dataset(language) == dataset  # as published
        assert [spec.name for spec in DATASETS.values() if language in spec.zero_shot_for] == [dataset]


def test_words_and_clip_lengths_are_the_published_ones() -> None:
    for name, spec in DATASETS.items():
        for split, part in spec.splits.items():
            words = {"chvtt": 45 if split == "pretrain" else 15, "didemo": 64, "activitynet": 64}.get(
                name, 32
            )
            assert part.words == words and part.duration_factor == (0.3 if split == "pretrain" else 0.5)
            tagged = (name, split) == ("chvtt", "pretrain")
            assert part.tag_words == (25 if tagged else None) and part.augments == tagged


def test_every_data_set_has_every_split() -> None:
    for dataset, spec in DATASETS.items():
        assert set(spec.splits) == set(SPLITS), dataset


@pytest.mark.parametrize(("dataset", "split", "language"), CASES)
def test_every_line_of_the_table_reads_its_default_files(
    tmp_path: Path, dataset: str, split: str, language: str
) -> None:
    write_all(tmp_path)
    files = default_files(tmp_path, dataset, split)
    assert files.store.parent == tmp_path / dataset and files.store.name.endswith("_lmdb")
    examples = read_examples(dataset, split, language=language, files=files)
    assert list(examples.captions) == [language]
    assert list(examples.video_ids) == [
        {"chvtt": "Videov", "msvd": "v_1_9", "activitynet": "v_1"}.get(dataset, "v")
    ]
    assert (examples.tags is not None) == (dataset == "chvtt" and split == "pretrain")


def test_bilingual_reads_the_captions_of_both_languages(tmp_path: Path) -> None:
    write_all(tmp_path)
    for dataset in ("vatex", "chvtt"):
        files = default_files(tmp_path, dataset, "test")
        examples = read_examples(dataset, "test", language="bilingual", files=files)
        assert list(examples.captions) == ["english", "chinese"] and examples.num_videos == 1
        assert examples.languages is not None and examples.languages.tolist() == [0, 1]
    files = default_files(tmp_path, "msrvtt", "test")
    with pytest.raises(UserError, match="--language bilingual: msrvtt has captions in english only"):
        read_examples("msrvtt", "test", language="bilingual", files=files)


def test_the_validation_list_is_never_the_test_list(tmp_path: Path) -> None:
    write_all(tmp_path)
    files = default_files(tmp_path, "vatex", VALIDATION)
    assert files.list == tmp_path / "vatex/val_list.txt"
    assert read_examples("vatex", VALIDATION, language="english", files=files).num_videos == 1
    files = default_files(tmp_path, "msrvtt", VALIDATION)
    assert files.list is None and files.annotations == tmp_path / "msrvtt/MSRVTT_data.json"
    with pytest.raises(UserError, match="--select_on val: chvtt has no validation list; .* held_out"):
        default_files(tmp_path, "chvtt", VALIDATION)


def test_ids_of_a_test_list_without_its_captions(tmp_path: Path) -> None:
    write_all(tmp_path)
    files = {name: default_files(tmp_path, name, "test") for name in DATASETS}
    ids = {name: read_test_ids(name, of, language="english") for name, of in files.items()}
    expected = {"chvtt": None, "msvd": ["v_1_9"], "activitynet": ["v_1"]}
    assert ids == {name: expected.get(name, ["v"]) for name in DATASETS}
    files["msrvtt"].annotations.unlink()  # a list of pairs needs none
    assert read_test_ids("msrvtt", files["msrvtt"], language="english") == ["v"]
    (tmp_path / "msrvtt/MSRVTT_JSFUSION_test.csv").write_text("video_id\nv\nv\n", "utf-8")
    for name in ("msrvtt", "vatex", "chvtt"):
        files[name].annotations.unlink(missing_ok=True)
        with pytest.raises(UserError, match=f"{files[name].annotations.name}: no such file"):
            read_test_ids(name, files[name], language="english")


def test_wrong_names_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--dataset webvid: choose from msrvtt, vatex, chvtt"):
        default_files(tmp_path, "webvid", "train")
    files = default_files(tmp_path, "msrvtt", "train")
    with pytest.raises(UserError, match="--language chinese: msrvtt has captions in english only"):
        read_examples("msrvtt", "train", language="chinese", files=files)
    with pytest.raises(UserError, match="MSRVTT_train.9k.csv: no such file"):
        read_examples("msrvtt", "train", language="english", files=files)


def test_a_list_is_asked_for_where_one_is_needed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a file that lists the videos"):
        files = SplitFiles(tmp_path / "vatex_data.json", None, tmp_path)
        read_examples("vatex", "train", language="english", files=files)


@pytest.mark.parametrize("language", ["english", "chinese"])
def test_real_clips_in_the_forms_of_vatex_and_chvtt(language: str) -> None:
    folder = REALDATA / "pairs" / "clips"
    if not folder.is_dir():
        pytest.skip("real clips are not there (../shared/realdata)")
    for split, videos in [("train", 32), ("val", 7), ("test", 10)]:
        files = SplitFiles(folder / "vatex_data.json", folder / f"{split}_list.txt", folder)
        assert read_examples("vatex", split, language=language, files=files).num_videos == videos
    for split, name, pairs in [
        ("pretrain", "videoinfo", 49),
        ("train", "query_train", 32),
        ("val", "query_val", 7),
    ]:
        files = SplitFiles(folder / f"chvtt_shape_{name}.jsonl", None, folder)
        assert read_examples("chvtt", split, language=language, files=files).num_captions == pairs


def test_split_chooses_the_published_lists(tmp_path: Path) -> None:
    def names(dataset: str, choice: str | None) -> list[str | None]:
        files = [default_files(tmp_path, dataset, split, choice=choice) for split in ("train", "val", "test")]
        return [file.list and file.list.name for file in files]

    default = ["MSRVTT_train.9k.csv", "MSRVTT_JSFUSION_test.csv", "MSRVTT_JSFUSION_test.csv"]
    assert names("msrvtt", None) == names("msrvtt", "9k") == default
    assert names("msrvtt", "7k") == ["MSRVTT_train.7k.csv", *default[1:]]
    assert names("msrvtt", "full") == [f"MSRVTT_{split}.full.csv" for split in ("train", "val", "test")]
    assert names("vatex", "test1k5") == ["train_list.txt", "val_list.txt", "test1k5_sec_list.txt"]
    assert names("vatex", "7k") == names("vatex", None)  # of another data set of the run
    for spec in DATASETS.values():
        for choice in spec.list_choices:
            require_choice(choice, [spec.name])
    with pytest.raises(UserError, match="--split 8k: choose from msrvtt 9k, 7k, full; vatex hgr, test1k5"):
        require_choice("8k", ["msrvtt"])


def test_the_annotations_of_another_form_are_found(tmp_path: Path) -> None:
    (tmp_path / "msvd").mkdir()
    assert default_files(tmp_path, "msvd", "test").annotations.name == "AllVideoDescriptions.txt"
    (tmp_path / "msvd" / "raw-captions.pkl").touch()
    assert default_files(tmp_path, "msvd", "test").annotations.name == "raw-captions.pkl"
