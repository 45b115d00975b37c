"""tools/evaluate_features.py on our files, on other people's, and on bad input."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.evaluation.feature_files import FeatureSet, SimilarityNotes, save_features, save_similarity
from engine.evaluation.metrics import all_metrics
from engine.evaluation.ranking import rank
from engine.evaluation.similarity import ScoreTiles
from modules.heads.hmmc import hmmc_head
from tests.engine.evaluation.naive_ranking import full_matrix, random_features
from tools.evaluate_features import main

OWNERS = np.array([0, 1, 1, 2, 3, 3, 3, 0])
IDS = ["v0", "v1", "v2", "v3"]
BOOTSTRAP = ["--bootstrap", "20"]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    made = random_features(np.random.default_rng(1), 8, 4, 3)
    np.save(tmp_path / "text.npy", made.text)
    np.save(tmp_path / "video.npy", made.video)
    np.save(tmp_path / "frames.npy", made.frames)  # type: ignore[arg-type]
    np.save(tmp_path / "bank.npy", np.random.default_rng(2).standard_normal((9, 16)).astype(np.float32))
    np.save(tmp_path / "noframes.npy", made.frames[:, :0])  # type: ignore[index]
    (tmp_path / "videos.txt").write_text("\n".join(IDS) + "\n", encoding="utf-8")
    (tmp_path / "owners.json").write_text(json.dumps([IDS[i] for i in OWNERS]), encoding="utf-8")
    return tmp_path


def arrays(files: Path, *names: str) -> list[str]:
    given = [part for name in names for part in (f"--{name}", str(files / f"{name}.npy"))]
    lists = ["--video_ids", str(files / "videos.txt"), "--video_of_text", str(files / "owners.json")]
    return [*given, *lists, *BOOTSTRAP]


def result_of(files: Path, argv: list[str]) -> dict:
    assert main([*argv, "--json", str(files / "out.json")]) == 0
    return json.loads((files / "out.json").read_text(encoding="utf-8"))


def expected() -> dict[str, float]:
    made = random_features(np.random.default_rng(1), 8, 4, 3)
    return all_metrics(rank(replace(made, frame_mask=None), OWNERS, head=hmmc_head(), logit_scale=100.0))


def test_arrays_of_any_model(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = result_of(files, arrays(files, "text", "video", "frames"))
    assert {name: found[name] for name in expected()} == pytest.approx(expected())
    assert found["protocol"]["name"] == "several_captions"
    low, high = found["intervals"]["t2v/R@1"]
    assert low <= found["t2v/R@1"] <= high
    assert "text to video: R@1" in capsys.readouterr().out


def test_a_similarity_matrix(files: Path) -> None:
    made = random_features(np.random.default_rng(1), 8, 4, 3)
    np.save(files / "similarity.npy", full_matrix(replace(made, frames=None, frame_mask=None)))
    by_matrix = result_of(files, [*arrays(files, "similarity"), "--dsl"])
    by_arrays = result_of(files, arrays(files, "text", "video"))
    assert by_matrix["t2v/MeanR"] == by_arrays["t2v/MeanR"] and "dsl/t2v/R@1" in by_matrix


def test_our_own_folder_with_post_processing(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = random_features(np.random.default_rng(1), 8, 4, 3)
    about = {"dataset": "vatex", "split": "test", "settings": {"top_frames": 2}}
    captions = [f"caption {i}" for i in range(8)]
    save_features(files / "saved", FeatureSet(made, OWNERS, IDS, captions, about=about))
    plain = [str(files / "saved"), *BOOTSTRAP]
    found = result_of(files, [*plain, "--dsl", "--qb_norm", "--bank", str(files / "bank.npy")])
    assert found["top_frames"] == 2 and found["dataset"] == "vatex"
    without = result_of(files, plain)
    assert {key: found[key] for key in without if "/" in key} == {
        k: v for k, v in without.items() if "/" in k
    }
    assert "qb_norm_static/t2v/R@1" in found and "qb_norm_dynamic/v2t/R@1" not in found
    assert "test queries at once" in found["post_processing"]["dsl"]
    assert "(temperature 100; dual softmax needs all" in capsys.readouterr().out


def test_a_bank_of_videos_gives_the_other_direction(files: Path) -> None:
    bank = ["--qb_norm", "--bank", str(files / "bank.npy"), "--bank_video", str(files / "video.npy")]
    assert "qb_norm_static/v2t/R@1" in result_of(files, [*arrays(files, "text", "video"), *bank])


def scores_with_dsl(files: Path, factor: float, *flags: str) -> dict:
    made = random_features(np.random.default_rng(1), 8, 4, 3)
    cosines = full_matrix(replace(made, frames=None, frame_mask=None), logit_scale=1.0)
    np.save(files / "similarity.npy", factor * cosines)
    return result_of(files, [*arrays(files, "similarity"), "--dsl", *flags])


def test_dual_softmax_guesses_the_scale_of_a_foreign_matrix_or_asks(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = result_of(files, [*arrays(files, "text", "video"), "--dsl"])
    capsys.readouterr()
    for factor, words in ((1.0, "takes the scores for cosines"), (100.0, "for 100 times cosines")):
        found = scores_with_dsl(files, factor)
        said = capsys.readouterr().err
        assert words in said and "--similarity_scale gives another factor" in said
        assert {name: found[name] for name in expected if name.startswith("dsl/")} == pytest.approx(
            {name: value for name, value in expected.items() if name.startswith("dsl/")}
        )
    found = scores_with_dsl(files, 5e4, "--similarity_scale", "5e4")
    assert capsys.readouterr().err == "" and found["dsl/t2v/mAP"] == pytest.approx(expected["dsl/t2v/mAP"])
    assert main([*arrays(files, "similarity"), "--dsl"]) == 2
    assert "neither cosines nor 100 times cosines; give --similarity_scale" in capsys.readouterr().err


def test_the_notes_beside_a_matrix_give_its_scale_and_its_captions(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features = replace(random_features(np.random.default_rng(1), 8, 4, 3), frames=None, frame_mask=None)
    tiles = ScoreTiles(features, hmmc_head(), logit_scale=100.0)
    save_similarity(files / "saved.npy", tiles, SimilarityNotes(100.0, OWNERS))
    found = result_of(files, ["--similarity", str(files / "saved.npy"), "--dsl", *BOOTSTRAP])
    expected = result_of(files, [*arrays(files, "text", "video"), "--dsl"])
    assert {name: found[name] for name in found if "/" in name} == {
        name: expected[name] for name in expected if "/" in name
    }
    assert capsys.readouterr().err == ""


def test_a_score_of_plus_infinity_with_dual_softmax_is_one_line(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = np.eye(9)
    scores[2, 3] = np.inf
    np.save(files / "scores.npy", scores)
    assert main(["--similarity", str(files / "scores.npy"), "--dsl", *BOOTSTRAP]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "dual softmax: the score inf of caption 2 with video 3 gives no finite result" in said


def test_json_on_stdout_is_nothing_but_json(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arrays(files, "text", "video"), "--json", "-"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["captions"] == 8 and "text to video: R@1" in said.err


def test_lists_are_read_once(files: Path) -> None:
    """A list may be a pipe, as of `<(head -n 4 list.txt)`: a second reading finds it empty."""
    expected = result_of(files, arrays(files, "text", "video"))
    text = (files / "videos.txt").read_bytes()
    (files / "videos.txt").unlink()
    os.mkfifo(files / "videos.txt")
    writer = threading.Thread(target=(files / "videos.txt").write_bytes, args=(text,), daemon=True)
    writer.start()
    assert result_of(files, arrays(files, "text", "video")) == expected
    writer.join()


@pytest.mark.parametrize("kind", ["float64", "float16", ">f4", ">f8", "longdouble", "int64"])
@pytest.mark.parametrize("name", ["text", "video", "frames", "bank"])
def test_any_pair_of_types_is_computed_in_the_wider_one(name: str, kind: str, files: Path) -> None:
    """Each array in turn has another type than the others."""
    np.save(files / f"{name}.npy", (8 * np.load(files / f"{name}.npy")).round().astype(kind))
    flags = [*arrays(files, "text", "video", "frames"), "--qb_norm", "--bank", str(files / "bank.npy")]
    found = result_of(files, flags)
    np.save(files / f"{name}.npy", np.load(files / f"{name}.npy").astype(np.float64))
    same = result_of(files, flags)
    assert {name: found[name] for name in found if "/" in name} == pytest.approx(
        {name: same[name] for name in same if "/" in name}
    )


def test_files_of_different_precision_are_compared_in_the_highest(files: Path) -> None:
    """numpy writes float64 where nothing else is asked for."""
    flags = [*arrays(files, "text", "video", "frames"), "--qb_norm", "--bank", str(files / "bank.npy")]
    before = result_of(files, flags)
    for name in ("video", "bank"):
        np.save(files / f"{name}.npy", np.load(files / f"{name}.npy").astype(np.float64))
    assert result_of(files, flags)["t2v/R@1"] == before["t2v/R@1"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "give a FOLDER, or --text and --video"),
        (["--text", "{}/text.npy"], "give a FOLDER"),
        (["--text", "{}/text.npy", "--video", "{}/none.npy"], "--video {}/none.npy: no such file"),
        (["--text", "{}/videos.txt", "--video", "{}/video.npy"], "not an .npy file of numbers"),
        (["--text", "{}/frames.npy", "--video", "{}/video.npy"], "with 2 axes"),
        (["--text", "{}/text.npy", "--video", "{}/video.npy"], "8 texts and 4 videos: give --video_of_text"),
        (
            ["--text", "{}/text.npy", "--video", "{}/video.npy", "--video_of_text", "{}/owners.json"],
            "--video_ids: needed",
        ),
        (["{}/nowhere"], "no features there"),
        (["{}/x", "--qb_beta", "0"], "--qb_beta 0.0: must be above 0"),
        (["--similarity", "{}/text.npy", "--qb_norm"], "--qb_norm: needs features"),
        (["{}", "--json", "{}"], "--json {}: is a folder"),
        (["{}", "--similarity_scale", "1"], "--similarity_scale: needs --similarity"),
        (["--similarity", "{}/text.npy", "--similarity_scale", "nan"], "--similarity_scale nan: must be"),
        (["{}", "--bootstrap", "99999999"], "--bootstrap 99999999: give 0 to 1,000,000"),
        (["--text", "{}/video.npy", "--video", "{}/video.npy", "--frames", "{}/none.npy"], "no such file"),
        (
            ["--text", "{}/video.npy", "--video", "{}/video.npy", "--frames", "{}/noframes.npy"],
            "has no frames",
        ),
    ],
)
def test_bad_input(argv: list[str], message: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([part.format(files) for part in argv]) == 2
    error = capsys.readouterr().err
    assert message.format(files) in error and error.count("\n") == 1


def test_ids_at_fault_are_named(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = arrays(files, "text", "video")
    (files / "videos.txt").write_text("v0\nv1\nv1\nv3\n", encoding="utf-8")
    assert main(argv) == 2
    assert "--video_ids: more than once: 1 ('v1')" in capsys.readouterr().err
    (files / "videos.txt").write_text("v0\nv1\nother\nv3\n", encoding="utf-8")
    assert main(argv) == 2
    assert "texts without a video: 1 ('v2')" in capsys.readouterr().err


def test_an_array_that_holds_objects_is_not_unpickled(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(files / "text.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert main(arrays(files, "text", "video")) == 2
    assert "not an .npy file of numbers" in capsys.readouterr().err


def test_features_of_another_checkpoint_are_refused(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = random_features(np.random.default_rng(1), 8, 4, 3)
    saved = FeatureSet(made, OWNERS, IDS, list("abcdefgh"), about={"checkpoint_sha256": "00"})
    save_features(files / "saved", saved)
    assert main([str(files / "saved"), "--checkpoint", str(files / "videos.txt")]) == 2
    assert "features of checkpoint_sha256 00, not" in capsys.readouterr().err
