"""Checkpoint files: read every published format without running code from it, write atomically.

A state is a flat dict of tensors under the published names, so the published code can read our files.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from common.archives import damaged_record
from common.atomic_files import SUFFIX, atomic_open, atomic_path
from common.errors import UserError, file_error, file_errors, first_line

State = dict[str, torch.Tensor]
CHECKPOINT = "pytorch_model.bin."  # the published name, followed by the epoch from 0

_ZIP = b"PK"  # how the archives of torch.save begin
_LONGEST = 200  # characters of another library's message
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
_PREFIXES = ("module.", "_orig_mod.")  # added by DistributedDataParallel and by torch.compile
# BERT's old names. Other names that end in gamma stay: CLIP's layer scale is called so today.
_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


def read_state(path: str | os.PathLike[str], *, verify: bool = True) -> State:
    """The tensors of a checkpoint file, on the CPU, under the published names.

    Reads files of `torch.save` (with `weights_only`) and safetensors files; the content decides which it is.
    Removes wrapping dicts, `module.` prefixes and BERT's old names `gamma` and `beta`. Tensors keep the dtype
    of the file. Where the format allows, they stay in the memory-mapped file until they are used.
    `verify` compares the checksums of all data with the file's, where it has them (safetensors has none).
    Raises `UserError` where the file is absent, truncated, damaged, holds code or no tensors, or has a name
    twice.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file")
    with file_errors(f"checkpoint {path}"), open(path, "rb") as file:
        head = file.read(16)
    # A safetensors file starts with the length of its JSON header (8 bytes) and the header.
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        stored = _read_safetensors(path)
    else:
        stored = _tensors(_read_torch(path, head), path=path)
        record = damaged_record(path) if verify and head.startswith(_ZIP) else None
        if record is not None:
            raise UserError(
                f"checkpoint {path}: damaged in {record}, whose checksum is another; copy it again"
            )
    state = {_published_name(name): tensor for name, tensor in stored.items()}
    if not state:
        raise UserError(f"checkpoint {path}: holds no tensors; expected a state dict")
    if len(state) < len(stored):
        old_names = [n for n in stored if _published_name(n) != n and _published_name(n) in stored]
        raise UserError(
            f"checkpoint {path}: holds weights both as NAME and under an old name: {old_names[0]}"
        )
    return state


def save_state(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write a state atomically and force it to disk: as safetensors where `path` ends so, else by torch.

    Raises `FileError` where it cannot be written, as on a full disk.
    """
    if path.suffix != ".safetensors":
        write_torch_file(dict(state), path)
        return
    with atomic_path(path, durable=True) as temporary, safetensors_errors(path):
        safetensors.torch.save_file(_without_shared_memory(state), temporary, metadata={"format": "pt"})


@contextlib.contextmanager
def safetensors_errors(path: Path) -> Iterator[None]:
    """Turn safetensors' error for a file that it cannot write, as on a full disk, into a `FileError`."""
    try:
        yield
    except safetensors.SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        reason = OSError(int(number[1]), os.strerror(int(number[1])))
        raise file_error(path, "cannot be written", reason) from error


def write_torch_file(content: dict[str, Any], path: Path) -> None:
    """`torch.save`, atomic and forced to disk. Raises `FileError` where `path` cannot be written."""
    with atomic_open(path, "wb", durable=True) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch raises it in place of the `OSError` of a full disk
            raise _os_error_beneath(error) or error from None


def _os_error_beneath(error: BaseException) -> OSError | None:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    return cause


def checkpoint_path(output_dir: Path, epoch: int) -> Path:
    """OUTPUT_DIR/pytorch_model.bin.{epoch}, the published name; epochs count from 0."""
    return output_dir / f"{CHECKPOINT}{epoch}"


def list_checkpoints(folder: Path, *, numbered: bool = False) -> list[Path]:
    """The `pytorch_model.bin.*` in `folder`, by number, then those without a number. No temporary files.

    `numbered`: only those with a number, as a training writes them.
    """
    paths = [path for path in folder.glob(f"{CHECKPOINT}*") if path.suffix != SUFFIX]
    paths = [path for path in paths if epoch_of(path) is not None] if numbered else paths
    return sorted(paths, key=lambda path: (epoch_of(path) is None, epoch_of(path), path.name))


def epoch_of(path: Path) -> int | None:
    """The epoch in a checkpoint's name, from 0; None if the name has no number."""
    match = re.fullmatch(re.escape(CHECKPOINT) + r"(\d+)", path.name)
    return int(match[1]) if match else None


def _read_safetensors(path: Path) -> State:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(
            f"checkpoint {path}: truncated or not a safetensors file ({_summary(error)})"
        ) from None


def _read_torch(path: Path, head: bytes) -> Any:
    """What `torch.load` reads from a file whose first bytes are `head`."""
    if head.startswith(b"version https:"):
        raise UserError(
            f"checkpoint {path}: a Git LFS pointer, not the weights; fetch them with git lfs pull"
        )
    is_archive = head.startswith(_ZIP)
    is_pickle = is_archive or (head[:1] == b"\x80" and b"\x01" <= head[1:2] <= b"\x05")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about files that we refuse anyway
            # Mapped: fine-tuning skips most of a pre-training file, so most of it is never read from disk.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can raise anything
        raise UserError(f"checkpoint {path}: {_reason(error, is_pickle=is_pickle)}") from None


def _reason(error: Exception, *, is_pickle: bool) -> str:
    """Why torch did not load a file. Torch's own message is not shown: it advises unsafe loading."""
    text = str(error)
    if "TorchScript" in text:
        return "a TorchScript archive, not a state dict; CLIP's own weights are given with --clip_weights"
    if isinstance(error, pickle.UnpicklingError) and is_pickle:
        refused = refused_class(error)
        named = f" ({refused})" if refused else ""
        return (
            f"refused: it holds more than tensors{named}, and no code is run from a checkpoint; "
            "save its state_dict() alone"
        )
    if isinstance(error, pickle.UnpicklingError):
        return "truncated or not a torch file"
    return f"truncated or not a torch file ({_summary(error)})"


def refused_class(error: Exception) -> str | None:
    """The class or function that `torch.load` met and does not load, because it could run code."""
    refused = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
    return refused[1] if refused else None


def _tensors(content: Any, *, path: Path) -> State:
    """The tensors in what `torch.load` returned, without the dicts around them."""
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


def _without_shared_memory(state: Mapping[str, torch.Tensor]) -> State:
    """`state` where no two names share memory, as safetensors requires: the MLM head's bias has two names."""
    seen: set[int] = set()
    result = {}
    for name, tensor in state.items():
        address = tensor.untyped_storage().data_ptr()
        shared = address in seen
        result[name] = tensor.clone(memory_format=torch.contiguous_format) if shared else tensor.contiguous()
        seen.add(address)
    return result


def _summary(error: BaseException) -> str:
    return textwrap.shorten(first_line(error), _LONGEST, placeholder=" ...")
