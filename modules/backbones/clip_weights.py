"""Published CLIP weights from a file, a cache or the network.

Weights become float32, whatever precision the file has.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.archives import damaged_record
from common.errors import UserError
from common.names import is_path
from modules.backbones.hub import MissingFiles, cached_file, is_offline
from modules.backbones.weight_names import convert_names

# Entries of published files that are not weights.
_NOT_WEIGHTS = {"input_resolution", "context_length", "vocab_size"}
_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")
# A constant here, not trained, so a file may lack it.
_OPTIONAL = {"logit_scale", "logit_bias"}


def load_clip_weights(
    clip: nn.Module,
    weights: str,
    *,
    name: str,
    cache_dir: str | Path | None = None,
    allow_download: bool = True,
) -> None:
    """Fill `clip` (of architecture `name`) from `weights`.

    `weights` is `none` (leave `clip` as it is), a file in OpenAI's form (TorchScript archive or state dict)
    or open_clip's (.bin, .pt, .safetensors), or a tag that open_clip knows for `name`, such as `openai`.
    Raises `UserError` where the weights are not available (it says what to fetch and where to put it) or
    belong to another architecture (it gives counts and names).
    """
    if weights != "none":
        path = find_clip_weights(weights, name=name, cache_dir=cache_dir, allow_download=allow_download)
        load_clip_file(clip, path, weights, name=name)


def load_clip_file(clip: nn.Module, path: Path, weights: str, *, name: str) -> None:
    """`load_clip_weights` from the file that `find_clip_weights` has found."""
    state, from_openai = read_clip_state(path)
    quick = any(type(module).__name__ == "QuickGELU" for module in clip.modules())
    if not quick and (from_openai or tag_config(name, weights).get("quick_gelu")):
        raise UserError(
            f"{weights} weights were trained with QuickGELU, {name} has none; use '{name}-quickgelu'"
        )
    fill_weights(clip, convert_names(state, clip), path=path, name=name)


def find_clip_weights(
    weights: str, *, name: str, cache_dir: str | Path | None = None, allow_download: bool = True
) -> Path:
    """The file that holds `weights`: a local one, else from the cache, else downloaded where allowed."""
    if is_path(weights, _SUFFIXES):
        path = Path(weights).expanduser()
        if not path.is_file():
            raise UserError(f"CLIP weights {weights}: no such file (--clip_weights)")
        return path
    config = tag_config(name, weights)
    if not config:
        tags = known_tags(name)
        raise UserError(
            f"CLIP weights '{weights}': no tag that open_clip knows for {name} "
            f"({', '.join(tags) if tags else 'it knows none'}); 'none' starts from random weights"
            f"{f'; for the file of this name give ./{weights}' if Path(weights).is_file() else ''}"
        )
    return _cached_weights(config, cache_dir) or _download(
        config, weights=weights, name=name, cache_dir=cache_dir, allow_download=allow_download
    )


def read_clip_state(path: str | Path) -> tuple[dict[str, Tensor], bool]:
    """State dict of a weight file, and whether it is OpenAI's TorchScript archive. Runs no pickled code."""
    path = Path(path)
    from_openai = _is_torchscript(path)
    try:
        state = _read_torchscript(path) if from_openai else _read_tensors(path)
    except (MemoryError, UserError):
        raise
    except Exception as error:  # torch and safetensors raise many kinds on a damaged file
        raise UserError(
            f"{path}: not readable as weights (tensors only, no pickled code): {_reason(error)}"
        ) from error
    record = damaged_record(path) if zipfile.is_zipfile(path) else None
    if record is not None:
        raise UserError(f"{path}: damaged in {record}, whose checksum is another; copy it again")
    return _clean(state), from_openai


def _read_torchscript(path: Path) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, but nothing else reads OpenAI's archives
        state: dict[str, Any] = torch.jit.load(str(path), map_location="cpu").state_dict()
    return state


def _read_tensors(path: Path) -> dict[str, Any]:
    state: Any
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(str(path))
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    inner = state.get("state_dict", state) if isinstance(state, dict) else None
    return inner if isinstance(inner, dict) else {}


def _reason(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # torch's message advises to load the file unsafely
        return "it is truncated, or no weight file, or holds more than tensors"
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(member.split("/", 1)[-1] == "constants.pkl" for member in archive.namelist())


def _clean(state: dict[str, Any]) -> dict[str, Tensor]:
    """Only weights, without DistributedDataParallel's prefix."""
    tensors = {
        key.removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)
    }
    return {key: value for key, value in tensors.items() if key not in _NOT_WEIGHTS}


def fill_weights(clip: nn.Module, state: dict[str, Tensor], *, path: Path, name: str) -> None:
    """Copy `state`, of the file `path`, into `clip` by name. Raises `UserError` where they differ."""
    expected = clip.state_dict()
    missing = [key for key in expected if key not in state and key not in _OPTIONAL]
    unknown = [key for key in state if key not in expected and key not in _OPTIONAL]
    common = [key for key in expected if key in state]
    reshaped = [
        f"{key} {list(state[key].shape)} for {list(expected[key].shape)}"
        for key in common
        if key not in _OPTIONAL and state[key].shape != expected[key].shape
    ]
    if missing or unknown or reshaped:
        first = ", ".join((reshaped + missing + unknown)[:4])
        raise UserError(
            f"{path}: not the weights of {name}: {len(missing)} missing, {len(unknown)} unknown, "
            f"{len(reshaped)} of another shape; first {first}"
        )
    with torch.no_grad():
        for key in common:
            expected[key].copy_(state[key].reshape(expected[key].shape))


def load_weight_file(clip: nn.Module, path: Path, *, name: str) -> None:
    """Fill `clip` from a file in open_clip's or transformers' form. Raises `UserError` as `fill_weights`."""
    state, _ = read_clip_state(path)
    fill_weights(clip, convert_names(state, clip), path=path, name=name)


def tag_config(name: str, weights: str) -> dict[str, Any]:
    """What open_clip has for the tag `weights` of a model; empty for another one."""
    from open_clip.pretrained import get_pretrained_cfg

    config: dict[str, Any] = get_pretrained_cfg(name, weights) or {}
    return config


def known_tags(name: str) -> list[str]:
    """The tags of weights that open_clip has for a model."""
    import open_clip

    tags: list[str] = open_clip.list_pretrained_tags_by_model(name)
    return tags


def _cached_weights(config: dict[str, Any], cache_dir: str | Path | None) -> Path | None:
    """The file that an earlier download left, from a URL or from the Hugging Face hub."""
    from_url = _url_target(config, cache_dir)
    if from_url is not None and from_url.is_file():
        return from_url
    repository, files = hub_files(config)
    return cached_file(repository, files, cache_dir=cache_dir) if repository else None


def _url_target(config: dict[str, Any], cache_dir: str | Path | None) -> Path | None:
    """Where open_clip keeps a download from a URL."""
    url = config.get("url")
    return Path(cache_dir or Path.home() / ".cache" / "clip") / Path(url).name if url else None


def hub_files(config: dict[str, Any]) -> tuple[str, list[str]]:
    """Repository, and the file names that open_clip would look for, best first."""
    repository, _, file = str(config.get("hf_hub", "")).rpartition("/")
    if file:
        return repository, [file]
    return repository, ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]


def _download(
    config: dict[str, Any], *, weights: str, name: str, cache_dir: str | Path | None, allow_download: bool
) -> Path:
    from open_clip.pretrained import download_pretrained

    failure: Exception | None = None
    if allow_download and not is_offline():
        try:
            return Path(download_pretrained(config, cache_dir=str(cache_dir) if cache_dir else None))
        except Exception as error:  # a missing network raises many kinds
            failure = error
    repository, files = hub_files(config)
    sources = [f"{files[0]} of https://huggingface.co/{repository}"] if repository else []
    target = _url_target(config, cache_dir)
    if target is not None:
        sources.append(f"{config['url']} (to be saved as {target})")
    raise MissingFiles(
        f"CLIP weights '{weights}' of {name} are not in the cache and cannot be downloaded here: fetch "
        f"{' or '.join(sources)} and give the file with --clip_weights FILE"
    ) from failure
