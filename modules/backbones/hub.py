"""Files of published models: in a folder, in the Hugging Face cache, on the network where that is allowed.

The cache is read directly, because transformers opens connections even with `local_files_only`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from common.errors import UserError
from common.names import is_path

Loaded = TypeVar("Loaded")
TIMEOUT_S = 10.0
# Every folder of a model has one of them: of transformers, of open_clip.
_CONFIGS = ("config.json", "open_clip_config.json")


class MissingFiles(UserError):
    """Files of a model are neither here nor to be had; the message says what to fetch."""


def is_offline() -> bool:
    """Whether the environment forbids the network, by HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def cached_file(repository: str, files: Sequence[str], *, cache_dir: str | Path | None) -> Path | None:
    """The first of `files` that an earlier download left in `cache_dir` (None: the hub's own cache)."""
    from huggingface_hub import try_to_load_from_cache

    if is_repository(repository):
        for file in files:
            cached = try_to_load_from_cache(repository, file, cache_dir=cache_dir)
            if isinstance(cached, str):
                return Path(cached)
    return None


def model_file(place: str, file: str, *, cache_dir: str | Path | None, allow_download: bool) -> Path | None:
    """One file of a model: in a folder, in the cache, or downloaded where allowed. None: not there."""
    folder = Path(place).expanduser()
    if folder.is_dir():
        return folder / file if (folder / file).is_file() else None
    cached = cached_file(place, [file], cache_dir=cache_dir)
    if cached is not None or not allow_download or is_offline() or not is_repository(place):
        return cached
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(place, file, cache_dir=cache_dir, etag_timeout=TIMEOUT_S))
    except Exception:  # the client raises many undocumented kinds; the caller says what to fetch
        return None


def load_local_first(
    load: Callable[[str, bool], Loaded],
    name: str,
    *,
    what: str,
    files: Sequence[str],
    cache_dir: str | Path | None,
    allow_download: bool,
    flag: str = "",
    remedy_flag: str = "--pretrained_text",
) -> Loaded:
    """Load one part of a model, such as its "tokenizer" (`what`), which needs one of `files`.

    `flag` says in messages where the name comes from (empty: --pretrained_text), `remedy_flag` which flag
    takes a folder.
    `name` is a folder (`model_folder`) or a repository on the hub. `load(place, local)` gets the folder or
    the snapshot in the cache; where that fails and the network is allowed, it gets the repository's name,
    with `local` False.
    Raises `MissingFiles` that says what to fetch where all fail. A `UserError` of `load` passes.
    """
    allowed = allow_download and not is_offline()
    missing = "not found on the hub" if allowed else "the network is not to be used"
    failure: Exception = FileNotFoundError(f"no such folder, not in the cache, and {missing}")
    for place, local in _places(name, files, cache_dir, allow_download=allowed):
        try:
            return load(place, local)
        except UserError:
            raise
        except Exception as error:  # transformers and the hub's client raise many undocumented kinds
            failure = error
    reason = (str(failure).strip() or type(failure).__name__).splitlines()[0]
    whose = f"{flag}: its {what} {name}" if flag else f"--pretrained_text {name}: its {what}"
    raise MissingFiles(
        f"{whose} cannot be loaded ({reason}); {_remedy(name, files, remedy_flag)}"
    ) from failure


def _places(
    name: str, files: Sequence[str], cache_dir: str | Path | None, *, allow_download: bool
) -> Iterator[tuple[str, bool]]:
    """Where to load from, and whether that is local: best first."""
    folder = model_folder(name)
    if folder is not None:
        yield str(folder), True
        return
    cached = cached_file(name, files, cache_dir=cache_dir)
    if cached is not None:
        yield str(cached.parent), True
    if allow_download and not Path(name).exists() and is_repository(name) and _is_on_hub(name):
        yield name, False


def model_folder(name: str) -> Path | None:
    """The folder that --pretrained_text names; None if it is a name on the hub, or there is no such folder.

    A value without a separator is a name. "owner/model" can be both: it is a folder if that holds a model.
    """
    folder = Path(name).expanduser()
    if not is_path(name) or not folder.is_dir():
        return None
    return folder if not is_repository(name) or holds_model(folder) else None


def holds_model(folder: Path) -> bool:
    """Whether a folder has the configuration of a model."""
    return any((folder / file).is_file() for file in _CONFIGS)


def _remedy(name: str, files: Sequence[str], flag: str) -> str:
    if model_folder(name) is not None:
        return f"the folder must hold {' or '.join(files)}"
    if not is_path(name) and Path(name).is_dir():
        return f"for the folder of this name give ./{name}"
    source = f"https://huggingface.co/{name}" if is_repository(name) else "that model"
    needed = {
        "--pretrained_text": "vocab.txt, tokenizer_config.json, config.json and the weights",
        "--tokenizer": "tokenizer.json and tokenizer_config.json",
    }
    return f"fetch {needed.get(flag, 'all files')} of {source} into a folder and give it with {flag} FOLDER"


def is_repository(name: str) -> bool:
    """Whether `name` can be a repository on the hub, and is not a path."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _is_on_hub(name: str) -> bool:
    """Whether the hub answers and has the model.

    This is asked first because a download is retried: without network it would take most of a minute to fail.
    """
    from huggingface_hub import model_info

    try:
        model_info(name, timeout=TIMEOUT_S)
    except Exception:  # the client raises many undocumented kinds
        return False
    return True
