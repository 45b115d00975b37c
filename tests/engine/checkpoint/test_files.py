"""Checkpoint files: every published format, broken files, atomic writes."""

from __future__ import annotations

import argparse
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from common.errors import FileError, UserError
from engine.checkpoint.files import checkpoint_path, epoch_of, list_checkpoints, read_state, save_state
from tests.engine.checkpoint.published import filled, golden_shapes

resource: Any
try:
    import resource
except ImportError:  # Windows
    resource = None

State = dict[str, Tensor]


# Formats


def _plain(state: State, path: Path) -> None:
    torch.save(state, path)


def _before_torch_1_6(state: State, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def _wrapped(state: State, path: Path) -> None:
    torch.save({"epoch": 3, "model_state_dict": state, "optimizer": {"step": torch.ones(1)}}, path)


def _wrapped_twice(state: State, path: Path) -> None:
    torch.save({"state_dict": {"model": {f"module.{name}": t for name, t in state.items()}}}, path)


def _compiled_and_distributed(state: State, path: Path) -> None:
    torch.save({f"module._orig_mod.{name}": tensor for name, tensor in state.items()}, path)


def _parameters(state: State, path: Path) -> None:
    torch.save({n: nn.Parameter(t) if t.is_floating_point() else t for n, t in state.items()}, path)


def _old_bert(state: State, path: Path) -> None:
    def old(name: str) -> str:
        return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")

    assert any(old(name) != name for name in state)
    torch.save({old(name): tensor for name, tensor in state.items()}, path)


def _safetensors(state: State, path: Path) -> None:
    # Under the usual name of a torch file: the content decides.
    safetensors.torch.save_file({name: t.clone() for name, t in state.items()}, path)


FORMATS = (
    _plain,
    _before_torch_1_6,
    _wrapped,
    _wrapped_twice,
    _compiled_and_distributed,
    _parameters,
    _old_bert,
    _safetensors,
)


@pytest.mark.parametrize("write", FORMATS)
def test_formats(write: Callable[[State, Path], None], tmp_path: Path) -> None:
    names = {name: [2] for name in golden_shapes("chinese", "pt/bird")}
    state = filled(names)
    path = tmp_path / "pytorch_model.bin.0"
    write(state, path)
    read = read_state(path)
    assert set(read) == set(state)
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())


def test_layer_scales_keep_their_name(tmp_path: Path) -> None:
    torch.save({"visual_encoder.visual.transformer.resblocks.0.ls_1.gamma": torch.ones(2)}, tmp_path / "a")
    assert list(read_state(tmp_path / "a")) == ["visual_encoder.visual.transformer.resblocks.0.ls_1.gamma"]


def test_one_name_twice(tmp_path: Path) -> None:
    torch.save({"module.a.weight": torch.ones(2), "a.weight": torch.zeros(2)}, tmp_path / "a.bin")
    with pytest.raises(UserError, match=r"a\.bin.*module\.a\.weight"):
        read_state(tmp_path / "a.bin")
    both = {"module.b.weight": torch.ones(2), "a.weight": torch.ones(2), "module.a.weight": torch.ones(2)}
    torch.save(both, tmp_path / "a.bin")
    assert unreadable(tmp_path / "a.bin").endswith("under an old name: module.a.weight")


# Broken files


def unreadable(path: Path) -> str:
    with pytest.raises(UserError) as info:
        read_state(path)
    message = str(info.value)
    assert message.startswith(f"checkpoint {path}: ") and "\n" not in message
    assert "weights_only" not in message  # torch's own advice, which would run what the file holds
    return message


@pytest.mark.parametrize("write", [_plain, _before_torch_1_6, _safetensors])
def test_truncated(write: Callable[[State, Path], None], tmp_path: Path) -> None:
    path = tmp_path / "cut.bin"
    write({"a": torch.ones(1000), "b": torch.ones(1000)}, path)
    whole = path.read_bytes()
    for size in (0, 3, 20, 200, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:size])
        assert "truncated or not" in unreadable(path), size


def test_changed_bytes_are_found_by_their_checksum(tmp_path: Path) -> None:
    """Torch reads such a file without a word."""
    path = tmp_path / "damaged.bin"
    torch.save({"a": torch.ones(1000), "b": torch.ones(1000)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.ones(20).numpy().tobytes()) + 40] ^= 1
    path.write_bytes(content)
    assert not torch.equal(torch.load(path, weights_only=True)["a"], torch.ones(1000))
    assert "damaged in damaged/data/0, whose checksum is another; copy it again" in unreadable(path)
    assert set(read_state(path, verify=False)) == {"a", "b"}


def test_a_file_without_checksums_is_read(tmp_path: Path) -> None:
    set_checksums = getattr(torch.serialization, "set_crc32_options", None)
    if set_checksums is None:
        pytest.skip("this torch always writes checksums")
    set_checksums(False)
    try:
        torch.save({"a": torch.ones(2)}, tmp_path / "a.bin")
    finally:
        set_checksums(True)
    assert torch.equal(read_state(tmp_path / "a.bin")["a"], torch.ones(2))


def test_the_message_of_another_library_ends_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("words " * 100 + "\nnext line")

    torch.save({"a": torch.ones(2)}, tmp_path / "a.bin")
    monkeypatch.setattr(torch, "load", fails)
    assert unreadable(tmp_path / "a.bin").endswith("words words ...)")


class _Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.mkdir, (str(self.marker),)


def test_code_is_refused_and_not_run(tmp_path: Path) -> None:
    path, marker = tmp_path / "evil.bin", tmp_path / "marker"
    torch.save({"weight": torch.ones(2), "hook": _Evil(marker)}, path)
    message = unreadable(path)
    assert "refused: it holds more than tensors" in message and "mkdir" in message
    torch.save({"weight": _Evil(marker)}, path, _use_new_zipfile_serialization=False)
    assert "refused" in unreadable(path)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps(_Evil(marker), protocol=protocol))
        assert "refused" in unreadable(path)
    torch.save({"model": {"weight": torch.ones(2)}, "args": argparse.Namespace(lr=1)}, path)
    assert unreadable(path).endswith(
        ": refused: it holds more than tensors (argparse.Namespace), and no code is run from a checkpoint; "
        "save its state_dict() alone"
    )
    assert not marker.exists()


def test_files_that_are_something_else(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    assert "no such file" in unreadable(path)
    assert "no such file" in unreadable(tmp_path)
    for content in (b"<html>not found</html>", b"PK", bytes(range(256))):
        path.write_bytes(content)
        assert "truncated or not a torch file" in unreadable(path)
    assert unreadable(path).endswith(": truncated or not a torch file")
    path.write_bytes(b"\x80\x06" + bytes(20))  # no protocol of pickle
    assert "refused" not in unreadable(path)
    other = tmp_path / "a.safetensors"
    other.write_bytes(b"PK")
    assert "truncated or not a safetensors file" in unreadable(other)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "Git LFS pointer" in unreadable(path)
    torch.save([torch.ones(2)], path)
    assert "holds a list; expected a state dict" in unreadable(path)
    torch.save({"epoch": 1}, path)
    assert "holds no tensors" in unreadable(path)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_torchscript_archive_points_to_the_flag_for_clip_weights(tmp_path: Path) -> None:
    path = tmp_path / "ViT-B-32.pt"
    torch.jit.script(nn.Linear(2, 2)).save(str(path))
    assert unreadable(path).endswith(
        ": a TorchScript archive, not a state dict; CLIP's own weights are given with --clip_weights"
    )


# Writing


@pytest.mark.parametrize("name", ["pytorch_model.bin.0", "model.safetensors"])
def test_a_failed_save_leaves_the_file_before_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    save_state({"a": torch.ones(2)}, path)
    broken: Any = {"a": torch.zeros(2), "b": lambda: None}
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        save_state(broken, path)
    assert torch.equal(read_state(path)["a"], torch.ones(2))
    assert os.listdir(tmp_path) == [name]


@pytest.mark.skipif(resource is None, reason="no limit on the size of files here")
@pytest.mark.parametrize("name", ["pytorch_model.bin.0", "model.safetensors"])
def test_a_full_disk_is_an_error_that_names_the_file(name: str, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(FileError, match=rf"{name}: cannot be written.*File too large") as caught:
            save_state({"a": torch.ones(200_000)}, tmp_path / name)
        assert caught.value.exit_code == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["pytorch_model.bin.0", "model.safetensors"])
def test_what_was_saved_is_on_disk_before_it_has_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power failure the name holds the old file or the new one."""
    forced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda handle: forced.append((tmp_path / name).exists()))
    save_state({"a": torch.ones(2)}, tmp_path / name)
    assert forced and not forced[0]


@pytest.mark.parametrize("name", ["pytorch_model.bin.0", "model.safetensors"])
def test_tensors_that_share_memory_are_saved_each_whole(name: str, tmp_path: Path) -> None:
    whole = torch.arange(12.0).view(3, 4)
    state = {"a": whole, "b": whole, "rows": whole[1:], "columns": whole.T, "other": torch.ones(2)}
    save_state(state, tmp_path / name)
    read = read_state(tmp_path / name)
    assert list(read) == list(state) if name.startswith("pytorch") else set(read) == set(state)
    assert all(torch.equal(read[key], value) for key, value in state.items())


def test_other_libraries_are_told_that_tensors_are_those_of_torch(tmp_path: Path) -> None:
    save_state({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    with safetensors.safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("name", ["pytorch_model.bin.0", "model.safetensors"])
def test_others_may_read_what_was_saved(name: str, tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    save_state({"a": torch.ones(2)}, tmp_path / name)
    assert (tmp_path / name).stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_checkpoints_are_listed_by_their_epoch(tmp_path: Path) -> None:
    assert checkpoint_path(tmp_path, 10) == tmp_path / "pytorch_model.bin.10"
    epochs = {"pytorch_model.bin.9": 9, "pytorch_model.bin.10": 10, "pytorch_model.bin.best": None}
    for name in (*epochs, "pytorch_model.bin.11.tmp", "training_state.3.pt"):
        (tmp_path / name).touch()
    assert [path.name for path in list_checkpoints(tmp_path)] == list(epochs)
    assert [path.name for path in list_checkpoints(tmp_path, numbered=True)] == list(epochs)[:2]
    assert {name: epoch_of(tmp_path / name) for name in epochs} == epochs
    assert epoch_of(Path("my_pytorch_model.bin.3")) is None and epoch_of(Path("pytorch_model.bin.3b")) is None
