"""Checkpoint files: read every published form without running what they hold, write atomically (METHOD 8).

A state is a flat dict of tensors under the published names, so that the published code reads our files.
"""

from __future__ import annotations

import os
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from common.atomic_files import atomic_path
from common.errors import FileError, UserError

State = dict[str, torch.Tensor]

_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
_PREFIXES = ("module.", "_orig_mod.")  # DistributedDataParallel's and torch.compile's
# BERT's old names. Not every gamma: that of CLIP's layer scale is called so today.
_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


def read_state(path: str | os.PathLike[str]) -> State:
    """The tensors of a checkpoint file on the CPU, under the published names.

    Takes `torch.save` files (read with `weights_only`) and safetensors, told apart by content; undoes
    wrapping dicts, `module.` prefixes and BERT's old `gamma`/`beta`. Tensors keep the file's dtype and, where
    its form allows, stay in the mapped file until they are used: `load_state` makes float32 of them.
    Raises `UserError`: no such file, truncated, holds code, holds no tensors, or one name twice.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file")
    raw = _read_safetensors(path) if _is_safetensors(path) else _tensors(_read_torch(path), path=path)
    state = {_published_name(name): tensor for name, tensor in raw.items()}
    if not state:
        raise UserError(f"checkpoint {path}: holds no tensors; expected a state dict")
    if len(state) < len(raw):
        twice = [name for name in raw if _published_name(name) != name and _published_name(name) in raw]
        raise UserError(f"checkpoint {path}: holds weights both as NAME and under an old name: {twice[0]}")
    return state


def save_state(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write a state atomically, forced to disk. Raises `FileError` where the disk is full.

    The form is safetensors where `path` ends so, else torch's.
    """
    with atomic_path(path, durable=True) as temporary:
        if path.suffix == ".safetensors":
            safetensors.torch.save_file(_untied(state), temporary, metadata={"format": "pt"})
        else:
            _torch_save(dict(state), temporary, path=path)


def _torch_save(state: State, temporary: Path, *, path: Path) -> None:
    try:
        torch.save(state, temporary)
    except RuntimeError as error:  # torch's word for a full disk
        raise FileError(f"{path}: cannot be written ({_first_line(error)})") from error


def checkpoint_path(output_dir: Path, epoch: int) -> Path:
    """OUTPUT_DIR/pytorch_model.bin.{epoch}, the published name; epochs count from 0."""
    return output_dir / f"pytorch_model.bin.{epoch}"


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(16)


def _is_safetensors(path: Path) -> bool:
    """By its first bytes: the length of a JSON header, then the header."""
    return path.suffix == ".safetensors" or _head(path)[8:9] == b"{"


def _read_safetensors(path: Path) -> State:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(
            f"checkpoint {path}: truncated or not a safetensors file ({_first_line(error)})"
        ) from None


def _read_torch(path: Path) -> Any:
    head = _head(path)
    if head.startswith(b"version https:"):
        raise UserError(
            f"checkpoint {path}: a Git LFS pointer, not the weights; fetch them with git lfs pull"
        )
    is_archive = head.startswith(b"PK")
    is_pickle = is_archive or (head[:1] == b"\x80" and b"\x01" <= head[1:2] <= b"\x05")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files that are refused anyway
            # Mapped: a pre-training file is mostly what fine-tuning leaves out, and that is never read.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except MemoryError:
        raise
    except Exception as error:  # damaged files fail in many ways, all of them the file's fault
        raise UserError(f"checkpoint {path}: {_reason(error, is_pickle=is_pickle)}") from None


def _reason(error: Exception, *, is_pickle: bool) -> str:
    """Why torch did not load a file, in our words: its own advice is to load it unsafely."""
    text = str(error)
    if "TorchScript" in text:
        return "a TorchScript archive, not a state dict; CLIP's own weights are given with --clip_weights"
    if isinstance(error, pickle.UnpicklingError) and is_pickle:
        found = re.search(r"GLOBAL (\S+)", text)
        what = f" ({found[1]})" if found else ""
        return (
            f"refused: it holds more than tensors{what}, and no code is run from a checkpoint; "
            "save its state_dict() alone"
        )
    if isinstance(error, pickle.UnpicklingError):
        return "truncated or not a torch file"
    return f"truncated or not a torch file ({_first_line(error)})"


def _tensors(content: Any, *, path: Path) -> State:
    """The tensors of what `torch.load` gave, out of the dicts around them."""
    while isinstance(content, Mapping):
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            return {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
        content = inner
    raise UserError(f"checkpoint {path}: holds a {type(content).__name__}; expected a state dict")


def _published_name(name: str) -> str:
    while name.startswith(_PREFIXES):
        name = name.partition(".")[2]
    for old, new in _OLD_NAMES.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _untied(state: Mapping[str, torch.Tensor]) -> State:
    """Each name with memory of its own, which safetensors wants: the MLM head's bias has two names."""
    seen: set[int] = set()
    result = {}
    for name, tensor in state.items():
        place = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if place in seen else tensor.contiguous()
        seen.add(place)
    return result


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:120] if text else type(error).__name__
