"""`load_model`: from a file, a folder, the hub; sharing models; the stand-in hub is tests/hmmc/hub.py."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from common.errors import FileError, UserError
from engine.checkpoint.files import read_state
from hmmc import VideoTextModel, load_model
from search import QueryError, Retriever, VideoIndex, index_videos
from tests.hmmc.hub import Hub, running, use
from tests.processes import fast_python
from tests.search.conftest import COLOURS, coloured, write_model
from tools import search as search_program

ROOT = Path(__file__).resolve().parents[2]
FIGURES = {
    "dataset": "msrvtt",
    "split": "test",
    "language": "english",
    "videos": 1000,
    "captions": 1000,
    "t2v/R@1": 46.7,
    "t2v/R@5": 73.9,
    "t2v/R@10": 83.3,
    "t2v/MedianR": 2.0,
    "t2v/MeanR": 13.0,
    "v2t/R@1": 46.3,
    "v2t/R@5": 74.5,
    "v2t/R@10": 83.4,
    "v2t/MedianR": 2.0,
    "v2t/MeanR": 9.5,
    "intervals": {"t2v/R@1": [43.6, 49.8]},
    "selected_on": "test",
    "checkpoint": "/home/me/secret",
}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder of a training with two epochs, the first of them reported."""
    folder = tmp_path_factory.mktemp("run")
    first = write_model(folder)
    shutil.copy(write_model(folder.parent / "second", seed=1), folder / "pytorch_model.bin.1")
    (folder / "best.json").write_text(json.dumps({"path": f"elsewhere/{first.name}"}), encoding="utf-8")
    digest = Retriever.from_checkpoint(first, device="cpu").identity["checkpoint_sha256"]
    (folder / "report").mkdir()
    report = json.dumps({**FIGURES, "checkpoint_sha256": digest})
    (folder / "report" / "report.json").write_text(report, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def model(run_folder: Path) -> VideoTextModel:
    return load_model(run_folder, device="cpu")


@pytest.fixture(scope="module")
def red(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coloured(tmp_path_factory.mktemp("videos") / "red.mp4", COLOURS["red"])


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running(Hub()) as found:
        use(found.address, tmp_path / "cache", monkeypatch)
        yield found


def scores(model: VideoTextModel, video: Path) -> np.ndarray:
    return model.similarity(["a red square", "rain"], [video])


def test_a_file_and_a_folder_name_the_same_model(
    run_folder: Path, model: VideoTextModel, red: Path, tmp_path: Path
) -> None:
    file = load_model(run_folder / "pytorch_model.bin.0", device="cpu")
    assert model.identity == file.identity
    without_best = shutil.copytree(run_folder, tmp_path / "run")
    (without_best / "best.json").unlink()
    last = load_model(without_best, device="cpu")
    assert last.identity["path"].endswith("pytorch_model.bin.1") and last.figures is None
    assert not np.allclose(scores(model, red), scores(last, red))


def test_scores_are_those_of_a_search(model: VideoTextModel, red: Path, tmp_path: Path) -> None:
    index_videos(model, tmp_path / "index", video_dir=red.parent, engine="exact", quiet=True)
    with VideoIndex(tmp_path / "index") as index:
        hit = model.search(index, "a red square", top=1).hits[0]
    clip = model.encode_video(red)
    assert model.similarity(["a red square"], [clip])[0, 0] == pytest.approx(hit.score, abs=2e-3)
    assert clip.video.shape == (model.width,) and clip.frames.shape == (4, model.width)


@pytest.mark.parametrize("head", ["hmmc", "wti", "xpool"])
def test_videos_of_different_lengths_are_scored_as_alone(head: str, tmp_path: Path) -> None:
    model = load_model(write_model(tmp_path / "model", head=head, use_frame_fea=head == "hmmc"), device="cpu")
    rng = np.random.default_rng(0)
    videos = [rng.integers(0, 256, (frames, 40, 60, 3), np.uint8) for frames in (2, 9)]
    together = model.similarity(["one", "two words"], videos)
    alone = [model.similarity(["one", "two words"], [video]) for video in videos]
    assert together == pytest.approx(np.concatenate(alone, axis=1), abs=1e-5)


def test_frames_and_texts_as_the_model_takes_them(model: VideoTextModel) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (9, 40, 60, 3), np.uint8)
    clip = model.preprocess(frames)
    assert clip.shape == (4, 3, 32, 32) and clip.equal(model.preprocess(list(frames[[0, 2, 4, 6]])))
    ids, mask = model.tokenize(["a red square", "rain"])
    assert ids.shape == mask.shape == (2, 32) and mask.sum(1).tolist() == [5, 3]
    assert model.similarity([], [frames]).shape == (0, 1)


@pytest.mark.parametrize("video", [[], np.zeros((3, 8, 8), np.uint8), [np.zeros((8, 8, 3))]], ids=str)
def test_what_is_no_video_is_refused(model: VideoTextModel, video: object) -> None:
    with pytest.raises(QueryError, match="^video: "):
        model.encode_video(video)  # type: ignore[arg-type]


def test_a_saved_folder_is_the_same_model(
    model: VideoTextModel, run_folder: Path, red: Path, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "saved", ignore_errors=True)
    model.save_pretrained(tmp_path / "saved")
    moved = (tmp_path / "saved").rename(tmp_path / "moved")  # nothing in it says where it was
    assert {path.name for path in moved.iterdir()} == {
        *("model.safetensors", "config.json", "clip_model.json", "report.json", "README.md")
    }
    assert not any(str(run_folder) in path.read_text("utf-8") for path in moved.glob("*.[jm]*[!s]"))
    published = read_state(run_folder / "pytorch_model.bin.0")
    saved = read_state(moved / "model.safetensors")
    assert saved.keys() == published.keys() and all(saved[name].equal(published[name]) for name in saved)
    again = load_model(moved, device="cpu")
    assert np.array_equal(scores(again, red), scores(model, red))
    with pytest.raises(UserError, match=r"^--model .*moved: a trained model; give it with --init_model$"):
        Retriever.from_pretrained(str(moved))
    # The weights are also a checkpoint like any other, with their settings.
    assert Retriever.from_checkpoint(moved / "model.safetensors", device="cpu").config.temporal_layers == 1


def test_the_model_card_has_the_figures_of_the_report(model: VideoTextModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "saved", model_card_kwargs={"license": "mit"})
    _, header, text = (tmp_path / "saved" / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    data = yaml.safe_load(header)
    assert (data["library_name"], data["language"], data["license"]) == ("hmmc", ["en"], "mit")
    (result,) = data["model-index"][0]["results"]
    assert {"type": "recall", "name": "t2v R@1", "value": 46.7} in result["metrics"]
    assert "| text to video | 46.7 | 73.9 | 83.3 | 2.0 | 13.0 |" in text
    assert "43.6 to 49.8" in text and "chosen on this test list" in text and "secret" not in text
    assert load_model(tmp_path / "saved", device="cpu").figures == model.figures


def test_figures_of_another_epoch_are_not_shown(run_folder: Path, tmp_path: Path) -> None:
    load_model(run_folder / "pytorch_model.bin.1", device="cpu").save_pretrained(tmp_path / "saved")
    assert "No report" in (tmp_path / "saved" / "README.md").read_text(encoding="utf-8")


def test_a_model_is_pushed_and_loaded_from_the_hub(
    hub: Hub, model: VideoTextModel, red: Path, tmp_path: Path
) -> None:
    address = model.push_to_hub("me/toy")
    assert address.startswith(f"{hub.address}/me/toy/commit/")
    assert b'load_model("me/toy")' in hub.repositories["me/toy"]["README.md"]
    again = load_model("me/toy", device="cpu")
    assert np.array_equal(scores(again, red), scores(model, red)) and again.figures == model.figures
    # Now from the cache, without a question to the hub.
    asked = len(hub.asked)
    assert load_model("me/toy", device="cpu", local_files_only=True).identity == again.identity
    assert len(hub.asked) == asked
    index = tmp_path / "index"
    flags = ["--engine", "exact", "--init_model", "me/toy"]
    assert search_program.main(["index", "--video_dir", str(red.parent), "--out", str(index), *flags]) == 0
    assert search_program.main(["query", str(index), "red", "--init_model", "me/toy"]) == 0


def test_an_interrupted_download_says_so_and_can_be_repeated(
    hub: Hub, model: VideoTextModel, red: Path
) -> None:
    model.push_to_hub("me/toy")
    hub.cut_after = 100_000
    with pytest.raises(UserError, match=r"^me/toy: the download stopped \(.*\); run it again"):
        load_model("me/toy", device="cpu")
    assert hub.started_at[0] == 0 and hub.started_at[1] > 0  # the client itself tries to go on
    hub.cut_after = None
    hub.asked.clear()
    assert np.array_equal(scores(load_model("me/toy", device="cpu"), red), scores(model, red))
    assert [line for line in hub.asked if line.startswith("GET /me/toy")] == [
        f"GET /me/toy/resolve/{hub.commit('me/toy')}/model.safetensors"
    ]


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("me/absent", {}, "no such folder, and no such model on the hub"),
        ("me/toy", {"revision": "v9"}, "has no revision v9"),
        ("me/absent", {"local_files_only": True}, "not in the cache, and the network is not to be used"),
    ],
)
def test_names_that_do_not_exist(hub: Hub, name: str, options: dict, reason: str) -> None:
    hub.repositories["me/toy"] = {"config.json": b"{}"}
    with pytest.raises(UserError, match=f"^{name}: {reason}") as caught:
        load_model(name, **options)
    assert "\n" not in str(caught.value)


def test_a_hub_that_does_not_answer(hub: Hub, model: VideoTextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    use("http://127.0.0.1:9", Path("unused"), monkeypatch)
    with pytest.raises(UserError, match="^me/toy: not in the cache, and the hub does not answer; fetch all"):
        load_model("me/toy")
    with pytest.raises(UserError, match=r"^me/toy: not uploaded \(.*\); run it again$"):
        model.push_to_hub("me/toy")


def test_uploads_that_the_hub_refuses(hub: Hub, model: VideoTextModel) -> None:
    with pytest.raises(UserError, match=r"^me/toy: the hub refused it \(.*\); log in with `hf auth login`$"):
        model.push_to_hub("me/toy", token="hf_wrong")


def test_paths_that_hold_no_model(model: VideoTextModel, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no_such_model"):
        load_model("no_such_model")
    with pytest.raises(UserError, match="empty"):
        load_model(tmp_path / "empty")
    with pytest.raises(UserError, match=r"^checkpoint no/model\.bin\.3: no such file$"):
        load_model("no/model.bin.3")
    with pytest.raises(UserError, match=r"checkpoint .*absent\.bin: no such file"):
        Retriever.from_checkpoint(tmp_path / "absent.bin")
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="file.* cannot be written"):
        model.save_pretrained(tmp_path / "file" / "saved")


def test_settings_beside_a_file_stay_in_its_folder(model: VideoTextModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    for wrong in ({"clip_model": "../small_clip.json"}, {"beside": ["output_dir"]}, {"beside": 3}):
        (tmp_path / "config.json").write_text(json.dumps({**settings, **wrong}), encoding="utf-8")
        with pytest.raises(UserError, match=r"config\.json: beside lists .* no setting with a file in this"):
            load_model(tmp_path)


def test_loading_needs_neither_search_engines_nor_the_page(run_folder: Path) -> None:
    code = (
        "import sys, hmmc; before = set(sys.modules); "
        "hmmc.load_model(sys.argv[1], device='cpu').encode_text(['a']); "
        "print(sorted({'faiss', 'qdrant_client', 'gradio', 'fastapi'} & (set(sys.modules) - before)))"
    )
    done = subprocess.run(
        [fast_python(), "-c", code, str(run_folder)],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
