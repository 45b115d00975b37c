"""Converting checkpoints: all tensors in both formats, CLIP4Clip's names, wrong input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from common.errors import UserError
from engine.checkpoint.files import read_state, save_state
from engine.checkpoint.weights import group_of, load_state
from tests.engine.checkpoint.published import filled, full_size, golden_shapes
from tests.golden import recipe
from tests.modules import tiny
from tools.convert_checkpoint import convert, main

State = dict[str, Tensor]


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(
        tensor.dtype == other[name].dtype and torch.equal(tensor, other[name]) for name, tensor in one.items()
    )


def as_clip4clip(state: State) -> State:
    """A fine-tuned English state under CLIP4Clip's names, with the extra tensors of its files."""
    replaced = {
        "visual_encoder.visual.": "clip.visual.",
        "visual_encoder.temporal_transformer.": "transformerClip.",
        "visual_encoder.frame_position_embeddings.": "frame_position_embeddings.",
        "text_encoder.": "clip.",
    }
    result = {"clip.logit_scale": torch.tensor(4.6)}
    for name, tensor in state.items():
        ours = next(prefix for prefix in replaced if name.startswith(prefix))
        result[replaced[ours] + name.removeprefix(ours)] = tensor
    positions = result["frame_position_embeddings.weight"]
    result["frame_position_embeddings.weight"] = torch.cat([positions, positions[:29] + 1])
    return result


def test_there_and_back(tmp_path: Path) -> None:
    state = filled({name: [2] for name in golden_shapes("chinese", "pt/bird")})
    state["cls.bias"] = state["cls.decoder.bias"]  # tied, as the published code saves them
    torch.save(state, tmp_path / "a.bin")
    convert(tmp_path / "a.bin", tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes()[8:9] == b"{"
    convert(tmp_path / "b.safetensors", tmp_path / "pytorch_model.bin.0")
    assert torch.load(tmp_path / "pytorch_model.bin.0", weights_only=True).keys() == state.keys()
    for name in ("b.safetensors", "pytorch_model.bin.0"):
        assert same(read_state(tmp_path / name), state)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "a.bin",
        "b.safetensors",
        "pytorch_model.bin.0",
    ]


def test_float16_weights_stay_so(tmp_path: Path) -> None:
    state = filled(golden_shapes("english", "ft"))
    torch.save(state, tmp_path / "a.bin")
    convert(tmp_path / "a.bin", tmp_path / "b.safetensors")
    read = read_state(tmp_path / "b.safetensors")
    assert same(read, state)
    assert {tensor.dtype for tensor in read.values()} == {torch.float16, torch.float32}


@pytest.mark.parametrize("source", ["a.bin", "a.safetensors"])
@pytest.mark.parametrize("target", ["b.bin", "b.safetensors"])
def test_encoders_only(source: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tiny.pretrain_model().state_dict()
    save_state(state, tmp_path / source)
    assert main([str(tmp_path / source), str(tmp_path / target), "--encoders_only"]) == 0
    kept = read_state(tmp_path / target)
    # The file has the kept tensors only, not the whole memory-mapped source.
    numbers = sum(tensor.numel() for tensor in kept.values())
    assert (
        (tmp_path / target).stat().st_size
        < 4 * numbers + 400 * len(kept)
        < 4 * sum(tensor.numel() for tensor in state.values())
    )
    assert kept.keys() == tiny.retrieval_model().state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in kept.items())
    output = capsys.readouterr().out
    assert "dropped:" in output and "queues 6" in output and "momentum encoders" in output


def test_half(tmp_path: Path) -> None:
    state = {
        "cls.a": torch.full((2, 2), 0.1),
        "cls.b": torch.full((2,), 0.1),
        "queue_ptr": torch.ones(1).long(),
    }
    torch.save(state, tmp_path / "a.bin")
    convert(tmp_path / "a.bin", tmp_path / "b.bin", half=True)
    read = read_state(tmp_path / "b.bin")
    dtypes = {name: tensor.dtype for name, tensor in read.items()}
    assert dtypes == {"cls.a": torch.float16, "cls.b": torch.float32, "queue_ptr": torch.int64}
    assert torch.allclose(read["cls.a"].float(), state["cls.a"], rtol=1e-3)
    torch.save({"cls.a": torch.full((2, 2), 1e5)}, tmp_path / "a.bin")
    with pytest.raises(UserError, match=r"--half: cls\.a .* 100000"):
        convert(tmp_path / "a.bin", tmp_path / "c.bin", half=True)
    assert not (tmp_path / "c.bin").exists()


def test_from_clip4clip_with_its_temporal_transformer(tmp_path: Path) -> None:
    """Full-size shapes: all of our tensors come out, under our names."""
    state = filled(full_size("english", "ft"), dense=False)
    torch.save(as_clip4clip(state), tmp_path / "clip4clip.bin")
    lines = "\n".join(convert(tmp_path / "clip4clip.bin", tmp_path / "ours.bin"))
    assert same(read_state(tmp_path / "ours.bin"), state)
    assert "the first 48 of 77 positions taken" in lines
    assert "clip.logit_scale: 1 left out (scores are multiplied by 100 here, whatever the file says)" in lines
    assert "text_projection" not in lines


def test_a_model_loads_what_came_from_clip4clip(tmp_path: Path) -> None:
    model = recipe.retrieval_model("english", tmp_path)
    state = filled(golden_shapes("english", "ft"), dense=False)
    torch.save(as_clip4clip(state), tmp_path / "clip4clip.bin")
    convert(tmp_path / "clip4clip.bin", tmp_path / "ours.safetensors")
    report = load_state(model, read_state(tmp_path / "ours.safetensors"), path="ours.safetensors")
    assert set(report.loaded) == set(state)
    assert not (report.left_out or report.missing or report.misshapen or report.fresh)


def test_parts_of_clip4clip_that_do_not_exist_here(tmp_path: Path) -> None:
    state = as_clip4clip(filled(golden_shapes("english", "ft"), dense=False))
    state = {name: tensor for name, tensor in state.items() if not name.startswith("transformerClip.")}
    others = ("lstm_visual.weight_ih_l0", "cross.pooler.dense.bias", "similarity_dense.bias", "new.bias")
    state |= {name: torch.ones(2) for name in (*others, "clip.visual.conv2.weight")}
    torch.save(state, tmp_path / "clip4clip.bin")
    lines = "\n".join(convert(tmp_path / "clip4clip.bin", tmp_path / "ours.bin"))
    groups = {group_of(name) for name in read_state(tmp_path / "ours.bin")}
    assert groups == {"image tower", "text encoder"}
    for said in ("seqLSTM", "tightTransf", "3d", "new.bias: 1 left out (unknown)", "only seqTransf"):
        assert said in lines
    del state["clip.text_projection"]
    torch.save(state, tmp_path / "clip4clip.bin")
    lines = "\n".join(convert(tmp_path / "clip4clip.bin", tmp_path / "ours.bin", overwrite=True))
    assert "clip.text_projection: not in the file, and a model needs it" in lines


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there, cut = tmp_path / "there.bin", tmp_path / "cut.bin"
    torch.save({"unknown": torch.ones(2)}, there)
    cut.write_bytes(there.read_bytes()[:500])
    new = str(tmp_path / "new.bin")
    for arguments, message in (
        ([str(tmp_path / "absent.bin"), new], "absent.bin: no such file"),
        ([str(cut), new], "truncated"),
        ([str(there), str(cut)], "--overwrite"),
        ([str(there), str(there), "--overwrite"], "same file"),
        ([str(there), str(tmp_path)], "a folder"),
        ([str(there), str(tmp_path / "no" / "a.bin")], "does not exist"),
        ([str(there), new], "nothing to write; none of its names is known (unknown)"),
        ([str(there), new, "--encoders_only"], "nothing to write"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("convert_checkpoint.py: error: ") and error.count("\n") == 1
        assert message in error
    assert not Path(new).exists()
    torch.save({"unknown": torch.ones(2), "cls.bias": torch.ones(2)}, there)
    assert main([str(there), str(cut), "--overwrite"]) == 0
    assert "unknown, written as they are: unknown\n" in capsys.readouterr().out
    assert torch.equal(read_state(cut)["unknown"], torch.ones(2))


def test_it_runs_as_a_script_from_any_folder(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "tools" / "convert_checkpoint.py"
    torch.save({"cls.bias": torch.ones(2)}, tmp_path / "a.bin")
    subprocess.run([sys.executable, script, "a.bin", "a.safetensors"], cwd=tmp_path, check=True)
    assert (tmp_path / "a.safetensors").is_file()
