"""A published model without a checkpoint: from its folder to answers in several languages, and what it says
where it cannot be had."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from search import Retriever, VideoIndex, VideoIndexError, index_videos
from search.models.pretrained import named_model, repository_of
from tests.search.conftest import coloured
from tests.search.published import write_published
from tools import search


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_published(tmp_path_factory.mktemp("published") / "siglip")


@pytest.fixture(scope="module")
def made(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with videos and their index, made by the command line."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "videos").mkdir()
    for name, colour in (("red", (220, 30, 30)), ("blue", (20, 40, 220))):
        coloured(folder / "videos" / f"{name}.mp4", colour)
    assert search.main(flags(folder, "--model", str(published), "--max_frames", "4")) == 0
    return folder


def flags(folder: Path, *more: str) -> list[str]:
    start = ["index", "--video_dir", str(folder / "videos"), "--out", str(folder / "index")]
    return [*start, "--num_workers", "1", "--engine", "exact", *more]


@pytest.mark.parametrize("text", ["a red dog", "红色狗", "rot"])
def test_every_language_of_the_model_is_searched_without_a_remark(
    text: str, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search.main(["query", str(made / "index"), text, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {hit["video_id"] for hit in answer["hits"]} == {"red.mp4", "blue.mp4"}
    assert (answer["model"], answer["remarks"]) == ("zero-shot", [])


def test_info_says_which_model_it_was(
    made: Path, published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search.main(["info", str(made / "index")]) == 0
    assert f"\nzero-shot model {published} (bilingual, siglip, hash " in capsys.readouterr().out
    assert search.main(["info", str(made / "index"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["kind"] == "zero-shot"


def test_the_model_of_an_index_is_known_again(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Indexing without naming a model brings an index up to date with its own."""
    assert search.main(flags(made)) == 0
    assert "2 videos found: 2 unchanged" in capsys.readouterr().err


def test_a_video_is_the_mean_of_its_frames(published: Path) -> None:
    retriever = Retriever.from_pretrained(str(published), max_frames=3, device="cpu")
    clips = torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8)
    video, frames = retriever.encode_clips(clips)
    mean = frames.mean(axis=1)
    np.testing.assert_allclose(video, mean / np.linalg.norm(mean, axis=-1, keepdims=True), atol=1e-5)
    assert retriever.frame_weight == 1.0  # the best frames count beside it


def test_the_same_weights_elsewhere_are_the_same_model(made: Path, published: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(published, tmp_path / "moved"))
    other = Retriever.from_pretrained(str(moved), max_frames=4, device="cpu")
    assert other.search(made / "index", "red").hits
    assert search.main(["query", str(made / "index"), "red", "--model", str(moved)]) == 0


def test_an_index_of_another_model_is_refused_in_one_line(
    made: Path, tmp_path: Path, checkpoint: Path, retriever: Retriever, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_published(tmp_path / "other", seed=1, vocabulary=64)
    with pytest.raises(VideoIndexError, match="made by another model: weights_sha256 .* there, .* here"):
        Retriever.from_pretrained(str(other), max_frames=4, device="cpu").search(made / "index", "red")
    with pytest.raises(VideoIndexError, match=r"zero-shot .*siglip there, trained .* here"):
        retriever.search(made / "index", "red")
    assert search.main(flags(made, "--init_model", str(checkpoint))) == 2
    assert search.main(["query", str(made / "index"), "red", "--init_model", str(checkpoint)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "give another folder" in lines[-2] and "by a zero-shot model" in lines[-1]


def test_a_model_of_one_language_says_so(tmp_path: Path) -> None:
    small = write_published(tmp_path / "english", vocabulary=64)
    retriever = Retriever.from_pretrained(str(small), max_frames=2, device="cpu")
    (tmp_path / "videos").mkdir()
    coloured(tmp_path / "videos" / "red.mp4", (220, 30, 30), frames=4)
    index_videos(retriever, tmp_path / "index", video_dir=tmp_path / "videos", engine="exact", quiet=True)
    with VideoIndex(tmp_path / "index") as index:
        (remark,) = retriever.search(index, "红色狗").remarks
    assert "trained on English texts" in remark


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            "ViT-B-16-SigLIP2",
            r"fetch all files of https://huggingface.co/timm/ViT-B-16-SigLIP2 into",
        ),
        ("timm/ViT-B-16-SigLP2", r"give --model FOLDER \(if the name is wrong: timm/ViT-B-16-SigLIP2, "),
        ("vit-b-16-siglip3", r"is unknown.*, ViT-B-16-SigLIP2, "),
        ("ViT-B-32:opnai", r"'opnai': no tag that open_clip knows for ViT-B-32 \(openai, "),
        ("ViT-B-32:./absent.bin", r"absent.bin: no such file \(:?"),
        ("./nowhere", r"--model ./nowhere: no such folder"),
        ("", "--model '': give an open_clip name"),
    ],
)
def test_what_cannot_be_had_is_told_with_what_would_be_right(model: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        Retriever.from_pretrained(model, device="cpu")
    assert "\n" not in str(raised.value) and "--clip_model" not in str(raised.value)


@pytest.mark.parametrize(
    ("model", "repository"),
    [
        ("ViT-B-16-SigLIP2", "timm/ViT-B-16-SigLIP2"),
        ("ViTamin-S", "jienengchen/ViTamin-S"),  # open_clip names a file of it
    ],
)
def test_the_repository_to_fetch_is_named_without_a_file(model: str, repository: str) -> None:
    settings = named_model(model)
    assert repository_of(settings["clip_model"], settings["clip_weights"]) == repository


def test_a_folder_without_a_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"--model {tmp_path}: its configuration"):
        Retriever.from_pretrained(str(tmp_path), device="cpu")


def test_flags_of_checkpoints_and_of_published_models_do_not_mix(
    made: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search.main(flags(made, "--model", "x", "--init_model", str(checkpoint))) == 2
    assert search.main(flags(made, "--use_temp")) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "--model and --tokenizer are of a published model" in lines[0]
    assert "--use_temp: is for a checkpoint (--init_model)" in lines[1]


@pytest.mark.parametrize(
    ("value", "model", "weights"),
    [
        ("ViT-B-16-SigLIP2", "ViT-B-16-SigLIP2", "webli"),
        ("ViT-B-32:laion2b_e16", "ViT-B-32", "laion2b_e16"),
        ("google/siglip2-base-patch16-224", "hf-hub:google/siglip2-base-patch16-224", "openai"),
        ("hf-hub:timm/ViT-B-16-SigLIP2", "hf-hub:timm/ViT-B-16-SigLIP2", "openai"),
        ("my.json:none", "my.json", "none"),
    ],
)
def test_values_of_the_flag(value: str, model: str, weights: str) -> None:
    assert named_model(value) == {"clip_model": model, "clip_weights": weights}
