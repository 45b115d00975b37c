"""The whole chain, videos to report, on real clips with real captions, where they are at hand.

They lie beside the checkout and are never part of it; see the skip reason.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.conftest import Toy
from tools import frame2lmdb

REAL = Path(__file__).resolve().parents[3] / "shared" / "realdata"
FRAMES = 8

pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real clips at {REAL}")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the clips in VATEX's and CHVTT's forms and one store for both."""
    root = tmp_path_factory.mktemp("clips")
    videos = root / "videos"
    videos.mkdir()
    for folder in ("natural", "asl"):
        for video in (REAL / "videos" / folder).iterdir():
            (videos / video.name).symlink_to(video)
    vatex, chvtt = root / "vatex", root / "chvtt"
    vatex.mkdir()
    chvtt.mkdir()
    pairs = REAL / "pairs" / "clips"
    for name in ("vatex_data.json", "train_list.txt", "val_list.txt", "test_list.txt"):
        shutil.copyfile(pairs / name, vatex / name)
    shutil.copyfile(pairs / "chvtt_shape_videoinfo.jsonl", chvtt / "videoinfo_bilingual.json")
    shutil.copyfile(pairs / "chvtt_shape_query_train.jsonl", chvtt / "query_data_train_bilingual.json")
    shutil.copyfile(pairs / "chvtt_shape_query_val.jsonl", chvtt / "query_data_val_bilingual.json")
    store = ["--video_dir", str(videos), "--lmdb_path", str(vatex / "vatex_lmdb"), "--num_workers", "2"]
    assert frame2lmdb.main([*store, "--num_frames", str(FRAMES), "--short_side", "64"]) == 0
    for name in ("videoinfo_lmdb", "query_lmdb"):
        shutil.copytree(vatex / "vatex_lmdb", chvtt / name)
    return root


def bert_of_clips(clips: Path, toy: Toy, folder: Path) -> Path:
    """The toy BERT in `folder`, with the most frequent characters of the captions in free rows of its
    vocabulary: a run is refused if the tokenizer knows less than half of its captions."""
    shutil.copytree(toy.data / "toy-bert", folder)
    words = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    texts = "".join(file.read_text(encoding="utf-8") for file in sorted(clips.glob("*/*.json*")))
    found = Counter(json.loads(f'"{word}"') for word in re.findall(r"\\u[4-9][0-9a-f]{3}", texts))
    found += Counter(letter for letter in texts if "\u4e00" <= letter <= "\u9fff")
    new = [letter for letter, _ in found.most_common() if letter not in words]
    free = [row for row, word in enumerate(words) if word.startswith("[unused")]
    for row, letter in zip(free, new):  # noqa: B905  (there are more of either)
        words[row] = letter
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("language", ["english", "chinese"])
def test_pre_training_fine_tuning_and_evaluation(
    clips: Path, language: str, toy: Toy, tmp_path: Path
) -> None:
    bert = bert_of_clips(clips, toy, tmp_path / "bert")
    shared = ("--data_dir", str(clips), "--language", language, "--use_temp", "--use_frame_fea")
    shared += ("--pretrained_text", str(bert))
    assert (
        toy.run("pretrain", tmp_path / "pre", *shared, "--dataset", "chvtt", "--eval_dataset", "vatex") == 0
    )
    model = ("--init_model", str(tmp_path / "pre" / "pytorch_model.bin.0"))
    for dataset, videos in (("vatex", 10), ("chvtt", 7)):
        out = tmp_path / dataset
        assert toy.run("train", out, *shared, *model, "--dataset", dataset) == 0
        result = json.loads((out / "metrics.jsonl").read_text(encoding="utf-8"))
        assert result["videos"] == videos and "comparable" not in result
        best = ("--init_model", str(out / "pytorch_model.bin.0"))
        assert toy.run("eval", tmp_path / f"{dataset}_eval", *shared, *best, "--dataset", dataset) == 0
        evaluated = json.loads((tmp_path / f"{dataset}_eval" / "metrics.jsonl").read_text(encoding="utf-8"))
        assert evaluated["t2v/MeanR"] == pytest.approx(result["t2v/MeanR"])
