"""tools/export_onnx.py: the files give torch's features for any number of inputs, or are not written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from hmmc import VideoTextModel, load_model
from modules.transformer_block import TransformerBlock
from tests.search.conftest import write_model
from tools import export_onnx
from tools.export import onnx_files
from tools.export.onnx_files import TOLERANCE, export_model, session_of
from tools.export.towers import TextTower
from tools.toy.bert import write_toy_bert

TEXTS = ["a red square", "rain", "two dogs run in the snow"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VideoTextModel:
    return load_model(write_model(tmp_path_factory.mktemp("model")), device="cpu")


@pytest.fixture(scope="module")
def folder(model: VideoTextModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the program writes, also quantised."""
    out = tmp_path_factory.mktemp("onnx") / "new"
    assert export_onnx.main([str(model.identity["path"]), "--out", str(out), "--int8"]) == 0
    return out


def run(path: Path, **inputs: torch.Tensor) -> list[np.ndarray]:
    return session_of(path, threads=1).run(None, {name: tensor.numpy() for name, tensor in inputs.items()})


def clips(model: VideoTextModel, count: int) -> torch.Tensor:
    rng = np.random.default_rng(count)
    frames = rng.integers(0, 256, (count, model.frames, 40, 60, 3), np.uint8)
    return torch.stack([model.preprocess(clip) for clip in frames])


@pytest.mark.parametrize("count", [1, 5])
def test_videos_have_torchs_features(folder: Path, model: VideoTextModel, count: int) -> None:
    frames = clips(model, count)
    for found, expected in zip(
        run(folder / "video.onnx", frames=frames), model.encode_clips(frames), strict=True
    ):
        assert found.shape == expected.shape and np.abs(found - expected).max() <= TOLERANCE


@pytest.mark.parametrize("count", [1, 3])
def test_texts_have_torchs_features(folder: Path, model: VideoTextModel, count: int) -> None:
    ids, _ = model.tokenize(TEXTS[:count])
    (found,) = run(folder / "text.onnx", ids=ids)
    assert np.abs(found - model.encode_text(TEXTS[:count])).max() <= TOLERANCE


def test_quantised_files_are_small_and_near(folder: Path, model: VideoTextModel) -> None:
    frames = clips(model, 3)
    video, each = run(folder / "video.int8.onnx", frames=frames)
    expected = model.encode_clips(frames)
    assert (video * expected[0]).sum(-1).min() > 0.99 and (each * expected[1]).sum(-1).min() > 0.99
    assert np.abs(video - expected[0]).max() > 0
    sizes = [(folder / f"text{suffix}.onnx").stat().st_size for suffix in (".int8", "")]
    assert sizes[0] < 0.3 * sizes[1]


def test_the_description_says_what_goes_in(folder: Path, model: VideoTextModel) -> None:
    described = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    assert described["video"] == {"file": "video.onnx", "frames": ["batch", 4, 3, 32, 32]}
    assert described["texts"] == [{"file": "text.onnx", "language": "english", "ids": ["batch", 32]}]
    assert (described["width"], described["head"], described["top_frames"]) == (64, "hmmc", 2)
    assert {path.name for path in folder.iterdir()} == {
        *("video.onnx", "video.int8.onnx", "text.onnx", "text.int8.onnx", "model.json")
    }


def test_a_mask_is_an_input_where_it_matters(tmp_path: Path) -> None:
    write_toy_bert(tmp_path / "bert", seed=0)
    settings = {"language": "bilingual", "dataset": "vatex", "pretrained_text": str(tmp_path / "bert")}
    bilingual = load_model(write_model(tmp_path / "both", **settings), device="cpu")
    weighted = load_model(write_model(tmp_path / "wti", head="wti", use_frame_fea=False), device="cpu")
    for model, language, needed in (
        *((bilingual, "english", False), (bilingual, "chinese", True), (weighted, "english", True)),
    ):
        tower = TextTower(model.model, language).eval()
        ids, mask = model.tokenize(TEXTS, language=language)
        tower.leave_out_useless_mask(ids, mask)
        assert tower.takes_mask is needed, language
        expected = model.encode_text(TEXTS, language=language)
        found = tower(ids, mask if needed else None).detach().numpy()
        assert found == pytest.approx(expected, abs=1e-6)


def test_a_file_with_other_features_is_not_written(
    model: VideoTextModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(tower: object, inputs: object, outputs: object, path: Path) -> None:
        path.write_bytes(b"a file")

    monkeypatch.setattr(onnx_files, "_export", export)
    wrong = [np.full((4, 64), 2.0, np.float32), np.full((4, 4, 64), 2.0, np.float32)]
    monkeypatch.setattr(onnx_files, "_run", lambda path, inputs: wrong)
    with pytest.raises(UserError, match=r"video\.onnx: differs from torch by .*, more than 0\.0001$"):
        export_model(model, tmp_path)
    assert not list(tmp_path.iterdir())
    blocks = [block for block in model.model.modules() if isinstance(block, TransformerBlock)]
    assert blocks and all(block.fused for block in blocks)


def test_missing_packages_and_models_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export_onnx.main([str(tmp_path / "absent.bin"), "--out", str(tmp_path)]) == 2
    monkeypatch.setattr(export_onnx, "_PACKAGES", ("no_such_package",))
    assert export_onnx.main(["model", "--out", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "absent.bin" in lines[0] and len(lines) == 2
    assert lines[1] == (
        "export_onnx.py: error: no_such_package is not installed: pip install -r requirements-onnx.txt"
    )
