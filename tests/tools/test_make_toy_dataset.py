"""The toy data set: deterministic, splits without overlap, real file formats, pairs differ in order only."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from dataloaders.datasets.registry import default_files, read_examples
from tools.make_toy_dataset import SIZES, WRITERS, main, make_toy_dataset
from tools.toy.annotations import Sizes, scenes_of
from tools.toy.bert import toy_vocabulary
from tools.toy.captions import EVENTS, LANGUAGES, WORDS, make_captions, make_tag, used_characters
from tools.toy.drawing import draw_clip, write_clip
from tools.toy.scenes import BACKGROUNDS, COLOURS, KINDS, SHAPES, make_scenes, scene_groups, split_world

SEED = 3
TINY = SIZES["tiny"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("toy") / "toy"
    make_toy_dataset(out, seed=SEED, sizes=TINY, parts=(*WRITERS, "toy-bert"))
    return out


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_same_seed_gives_the_same_files_and_another_seed_others(toy: Path, tmp_path: Path) -> None:
    make_toy_dataset(tmp_path / "again", seed=SEED, sizes=TINY, parts=(*WRITERS, "toy-bert"))
    assert tree(tmp_path / "again") == tree(toy)
    make_toy_dataset(tmp_path / "other", seed=SEED + 1, sizes=TINY, parts=["msrvtt"])
    assert tree(tmp_path / "other" / "msrvtt") != tree(toy / "msrvtt")


def test_workers_do_not_change_the_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.make_toy_dataset._CLIPS_FOR_A_POOL", 20)
    sizes = Sizes(msrvtt_train=18, msrvtt_test=2, msrvtt_captions=1)
    for workers in (1, 2):
        make_toy_dataset(tmp_path / str(workers), sizes=sizes, parts=["msrvtt"], workers=workers)
    assert tree(tmp_path / "1") == tree(tmp_path / "2")


def test_msrvtt_files(toy: Path) -> None:
    folder = toy / "msrvtt"
    train, test = read_csv(folder / "MSRVTT_train.9k.csv"), read_csv(folder / "MSRVTT_JSFUSION_test.csv")
    data = read_json(folder / "MSRVTT_data.json")
    assert (len(train), len(test)) == (TINY.msrvtt_train, TINY.msrvtt_test)
    assert list(train[0]) == ["video_id"]
    assert list(test[0]) == ["key", "vid_key", "video_id", "sentence"]
    assert len(data["sentences"]) == (len(train) + len(test)) * TINY.msrvtt_captions
    told = {(s["video_id"], s["caption"]) for s in data["sentences"]}
    assert all((row["video_id"], row["sentence"]) in told for row in test)
    ids = [video["video_id"] for video in data["videos"]]
    assert ids == [row["video_id"] for row in train + test]
    assert [line["video_id"] for line in read_json_lines(folder / "videos.jsonl")] == ids
    assert {path.stem for path in (folder / "videos").iterdir()} == set(ids)


def test_vatex_files(toy: Path) -> None:
    folder = toy / "vatex"
    data = read_json(folder / "vatex_data.json")
    lists = {
        s: (folder / f"{s}_list.txt").read_text(encoding="utf-8").split() for s in ("train", "val", "test")
    }
    assert {s: len(names) for s, names in lists.items()} == {
        "train": TINY.vatex_train,
        "val": TINY.vatex_val,
        "test": TINY.vatex_test,
    }
    assert sorted(sum(lists.values(), [])) == sorted(data)
    for captions in data.values():
        assert len(set(captions["enCap"])) == len(set(captions["chCap"])) == TINY.vatex_captions
    assert {path.stem for path in (folder / "videos").iterdir()} == set(data)
    start, end = next(iter(data)).split("_")[-2:]
    assert len(start) == len(end) == 6 and int(start) < int(end)


def test_chvtt_files(toy: Path) -> None:
    folder = toy / "chvtt"
    infos = read_json_lines(folder / "videoinfo_bilingual.json")
    assert len(infos) == TINY.chvtt_pretrain
    assert set(infos[0]) == {"docid", "duration", "title", "title_eng", "tag", "tag_eng"}
    queries = {s: read_json_lines(folder / f"query_data_{s}_bilingual.json") for s in ("train", "val")}
    assert len(queries["train"]) == TINY.chvtt_query_train and len(queries["val"]) == TINY.chvtt_query_val
    assert set(queries["val"][0]) == {"query", "query_eng", "videolist"}
    shown = [video for lines in queries.values() for line in lines for video in line["videolist"]]
    assert set(shown[0]) == {"docid", "title", "title_eng", "duration"}
    lists = {
        s: [v["video_id"] for v in read_json_lines(folder / f"{s}_videos.jsonl")]
        for s in ("videoinfo", "query")
    }
    assert lists["videoinfo"] == [f"Video{info['docid']}" for info in infos]
    assert lists["query"] == [f"Video{video['docid']}" for video in shown]
    assert {p.stem for p in (folder / "videos").iterdir()} == set(lists["videoinfo"] + lists["query"])
    assert len(lists["videoinfo"] + lists["query"]) == len(set(lists["videoinfo"] + lists["query"]))


READABLE = [
    ("msrvtt", "train", "english", TINY.msrvtt_train, TINY.msrvtt_train * TINY.msrvtt_captions),
    ("msrvtt", "test", "english", TINY.msrvtt_test, TINY.msrvtt_test),
    ("vatex", "train", "chinese", TINY.vatex_train, TINY.vatex_train * TINY.vatex_captions),
    ("vatex", "test", "english", TINY.vatex_test, TINY.vatex_test * TINY.vatex_captions),
    ("chvtt", "pretrain", "chinese", TINY.chvtt_pretrain, TINY.chvtt_pretrain),
    ("chvtt", "train", "english", TINY.chvtt_query_train * 2, TINY.chvtt_query_train * 2),
    ("chvtt", "val", "chinese", TINY.chvtt_query_val, TINY.chvtt_query_val),
    *(
        (name, split, "english", count, count * captions)
        for name, captions in (("msvd", 5), ("lsmdc", 1), ("didemo", 3), ("activitynet", 3))
        for split, count in (("train", TINY.field_train), ("test", TINY.field_test))
    ),
]


def test_the_table_of_anybodys_videos(toy: Path) -> None:
    path = str(toy / "table" / "my_data.csv")
    files = default_files("", path, "train")
    for split, videos in (("train", TINY.field_train), ("val", TINY.field_val), ("test", TINY.field_test)):
        examples = read_examples(path, split, language="bilingual", files=files)
        assert (examples.num_videos, examples.num_captions) == (videos, 6 * videos)
        assert set(examples.video_ids) <= {video.stem for video in (toy / "table" / "videos").iterdir()}


@pytest.mark.parametrize(("dataset", "split", "language", "videos", "captions"), READABLE)
def test_the_project_reads_it(
    toy: Path, dataset: str, split: str, language: str, videos: int, captions: int
) -> None:
    files = default_files(toy, dataset, split)
    examples = read_examples(dataset, split, language=language, files=files)
    assert (len(examples.video_ids), len(examples.captions)) == (videos, captions)
    names = {path.stem for path in (toy / dataset / "videos").iterdir()}
    assert set(examples.video_ids) <= names


def test_videos_are_as_long_as_the_annotations_say(toy: Path) -> None:
    for video in read_json(toy / "msrvtt" / "MSRVTT_data.json")["videos"][:4]:
        path = toy / "msrvtt" / "videos" / f"{video['video_id']}.mp4"
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            seconds = float(stream.duration * stream.time_base)
        assert seconds == pytest.approx(video["end time"])
        assert len(decode(path)) >= 24


def test_splits_share_no_scene_type() -> None:
    world = split_world(SEED)
    types = {split: {t for kind in groups.values() for t in kind} for split, groups in world.items()}
    assert not types["train"] & types["val"] and not types["train"] & types["test"]
    assert not types["val"] & types["test"]
    assert set().union(*types.values()) == {t for kind in scene_groups().values() for t in kind}
    assert all(set(groups) == set(KINDS) and all(groups.values()) for groups in world.values())


def test_default_size_trains_on_no_test_scene_and_tests_each_once() -> None:
    sizes = SIZES["default"]
    train = [s.type for s in scenes_of("msrvtt", "train", sizes.msrvtt_train, seed=SEED)]
    pretrain = [s.type for s in scenes_of("chvtt pretrain", "train", sizes.chvtt_pretrain, seed=SEED)]
    test = [s.type for s in scenes_of("msrvtt", "test", sizes.msrvtt_test, seed=SEED)]
    assert len(set(test)) == len(test) >= 100
    assert not set(test) & set(train + pretrain)
    assert all(t.reversed() in test for t in test)
    assert {t.kind for t in test} == {t.kind for t in train} == set(KINDS)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_test_caption_in_training(language: str) -> None:
    rng = np.random.default_rng(SEED)
    told = {
        split: [
            set(make_captions(s, language, count=5, rng=rng)) for s in scenes_of("x", split, 90, seed=SEED)
        ]
        for split in ("train", "test")
    }
    assert not set().union(*told["train"]) & set().union(*told["test"])
    assert len(set().union(*told["test"])) == 5 * len(told["test"])


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_word_has_two_meanings(language: str) -> None:
    words = [word for synonyms in WORDS[language].values() for word in synonyms]
    words += [phrase for phrases in EVENTS[language].values() for phrase in phrases]
    assert len(words) == len(set(words))
    assert set(WORDS[language]) >= {*COLOURS, *SHAPES, *BACKGROUNDS}


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_shows_the_same_frames_in_opposite_order(kind: str, tmp_path: Path) -> None:
    forward = split_world(SEED)["train"][kind][0]
    shown = []
    for scene_type in (forward, forward.reversed()):
        scene = make_scenes([scene_type], np.random.default_rng(5))[0]
        write_clip(tmp_path / "clip.mp4", scene)
        drawn, decoded = draw_clip(scene), decode(tmp_path / "clip.mp4")
        assert len(decoded) == len(drawn)
        assert np.abs(decoded.astype(int) - drawn).mean() < 5
        shown.append((drawn, decoded.astype(int)))
    (drawn, decoded), (drawn_back, decoded_back) = shown
    assert np.array_equal(drawn, drawn_back[::-1])
    assert not np.array_equal(drawn, drawn_back)
    compression = np.abs(decoded - decoded_back[::-1]).mean()
    assert compression < 2 < np.abs(decoded[0] - decoded_back[0]).max()


def test_moving_right_moves_right() -> None:
    scene = make_scenes([split_world(SEED)["train"]["horizontal"][0]], np.random.default_rng(0))[0]
    frames = draw_clip(scene).astype(int)
    changed = np.abs(frames[-1] - frames[0]).sum(axis=-1) > 60
    spread = frames.max(axis=-1) - frames.min(axis=-1)  # shapes are vivid, backgrounds grey
    columns = np.arange(frames.shape[2])
    places = [np.average(columns, weights=(spread[i] * changed).sum(axis=0)) for i in (0, -1)]
    assert places[1] > places[0] + 10


def test_toy_bert_loads_offline_and_knows_every_character(toy: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(toy / "toy-bert", local_files_only=True)
    model = AutoModel.from_pretrained(toy / "toy-bert", local_files_only=True)
    assert model.config.vocab_size == len(tokenizer) == len(toy_vocabulary())
    titles = [info["title"] for info in read_json_lines(toy / "chvtt" / "videoinfo_bilingual.json")]
    ids = tokenizer(titles, padding=True, return_tensors="pt")
    assert tokenizer.unk_token_id not in ids["input_ids"]
    assert ids["input_ids"].shape[1] <= 45
    assert ids["input_ids"][0, 0] == tokenizer.cls_token_id
    assert model(**ids).pooler_output.shape == (len(titles), 128)


def test_vocabulary_covers_the_grammar() -> None:
    rng = np.random.default_rng(0)
    texts = []
    for scene in scenes_of("x", "train", 60, seed=SEED):
        texts += [*make_captions(scene, "chinese", count=5, rng=rng), make_tag(scene, "chinese", rng=rng)]
    assert set("".join(texts)) - {" "} <= set(used_characters())


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "toy"
    argv = ["--out", str(out), "--size", "tiny", "--only", "msrvtt"]
    assert main(argv) == 0
    assert "msrvtt" in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir()) == ["msrvtt", "toy.json"]
    assert main(argv) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*argv, "--overwrite"]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["toy"]


def test_overwrite_keeps_folders_of_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    assert main(["--out", str(tmp_path), "--size", "tiny", "--overwrite"]) == 2
    assert "toy.json" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "mine"


def test_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unseen scenes"):
        make_toy_dataset(tmp_path / "toy", sizes=Sizes(msrvtt_test=5000), parts=["msrvtt"])
    with pytest.raises(ValueError, match="captions per clip"):
        make_toy_dataset(tmp_path / "toy", sizes=Sizes(msrvtt_captions=5000), parts=["msrvtt"])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["--out", str(tmp_path / "file" / "toy"), "--size", "tiny"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("make_toy_dataset.py: error: --out ") and "cannot be written" in error
    assert error.count("\n") == 1
