"""Where the weights of a trained model lie: a file, an output folder, a saved folder, OWNER/NAME of the hub.

A saved folder (`hmmc.VideoTextModel.save_pretrained`) holds model.safetensors, config.json and README.md.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from common.errors import UserError, first_line
from common.names import is_path
from dataloaders.datasets.files import read_json_object
from engine.saved_settings import SETTINGS_FILE, read_saved_settings
from modules.backbones.hub import TIMEOUT_S, is_offline, is_repository
from modules.backbones.request import HUB_PREFIX

WEIGHTS = "model.safetensors"
REPORT = "report.json"
_BEST = "best.json"  # of a training: its reported epoch
_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".safetensors")


def find_checkpoint(place: str | os.PathLike[str], **hub: Any) -> Path | None:
    """The file of weights that `place` names, downloaded if need be. None: nothing of this project is there.

    Of an output folder it is the reported epoch. `hub`: `revision`, `token`, `cache_dir`, `force_download`
    and `local_files_only`, as in huggingface_hub. Raises `UserError` if a repository of the hub does not
    exist, or is not all here and cannot be downloaded.
    """
    path = Path(place).expanduser()
    if path.is_file():
        return path.absolute()
    if path.is_dir():
        return _in_folder(path.absolute())
    name = repository_of(place)
    if name is None and _looks_like_weights(os.fspath(place)):
        raise UserError(f"checkpoint {place}: no such file")
    return None if name is None else _of_hub(name, **hub)


def _looks_like_weights(name: str) -> bool:
    """Whether a name is that of a file of weights; "NAME:FILE" is a published model."""
    return ":" not in name and (name.lower().endswith(_WEIGHTS) or ".bin." in name)


def repository_of(place: str | os.PathLike[str]) -> str | None:
    """The repository OWNER/NAME that `place` can mean; None for names of files and for other names.

    "ckpts/model" is a path if there is a folder ckpts.
    """
    name = os.fspath(place).removeprefix(HUB_PREFIX)
    owner, slash, _ = name.partition("/")
    if not slash or not is_repository(name) or _looks_like_weights(name) or name.endswith(".json"):
        return None
    return None if name == os.fspath(place) and Path(owner).exists() else name


def may_be_checkpoint(place: str | os.PathLike[str]) -> bool:
    """Whether `place` is a file, a folder or the name of a repository. For before torch is imported."""
    return Path(place).expanduser().exists() or repository_of(place) is not None


def _in_folder(folder: Path) -> Path | None:
    if (folder / WEIGHTS).is_file() and read_saved_settings(folder / SETTINGS_FILE) is not None:
        return folder / WEIGHTS
    from engine.checkpoint.files import list_checkpoints  # imports torch

    paths = list_checkpoints(folder, numbered=True)
    if (folder / _BEST).is_file():
        # The path there is as the training was given it, perhaps relative to another folder.
        best = folder / Path(str(read_json_object(folder / _BEST).get("path"))).name
        if best not in paths:
            raise UserError(f"{folder}: {best.name}, which its {_BEST} names, is not there")
        return best
    return paths[-1] if paths else None


def _of_hub(name: str, **hub: Any) -> Path | None:
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    local = bool(hub.pop("local_files_only", False)) or is_offline()
    options = {**hub, "local_files_only": local, "etag_timeout": TIMEOUT_S}
    page = f"https://huggingface.co/{name}"
    try:
        config = Path(hf_hub_download(name, SETTINGS_FILE, **options))
        if read_saved_settings(config) is None:
            return None
        # The same commit as the settings.
        folder = snapshot_download(
            name, **{**options, "revision": config.parent.name}, ignore_patterns=["*.onnx"]
        )
    except LocalEntryNotFoundError:
        why = "the network is not to be used" if local else "the hub does not answer"
        raise UserError(
            f"{name}: not in the cache, and {why}; fetch all files of {page} into a folder and give that"
        ) from None
    except GatedRepoError:
        raise UserError(f"{name}: its owner must give access first: ask for it at {page}") from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{name}: no such folder, and no such model on the hub (a private one needs `hf auth login`)"
        ) from None
    except RevisionNotFoundError:
        raise UserError(f"{name}: has no revision {hub.get('revision')}") from None
    except EntryNotFoundError:  # no config.json: it is of another library
        return None
    except UserError:
        raise
    except Exception as error:  # the client raises many undocumented kinds
        raise UserError(
            f"{name}: the download stopped ({first_line(error)}); run it again, complete files are kept"
        ) from error
    if not (Path(folder) / WEIGHTS).is_file():
        missing = "is not in the cache" if local else "is not on the hub"
        raise UserError(f"{name}: its {WEIGHTS} {missing}; fetch all files of {page}")
    return Path(folder) / WEIGHTS


def is_local(place: str) -> bool:
    """Whether a setting that is a name or a path (--clip_model, --tokenizer) is a path of this machine."""
    return not place.startswith(HUB_PREFIX) and is_path(place, (".json",)) and Path(place).exists()
