"""Where a model's files are looked for, and in which order."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest

from common.errors import UserError
from modules.backbones.hub import cached_file, load_local_first

MODEL = "some/bert"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache in which only the configuration of `MODEL` was downloaded."""
    repository = tmp_path / "models--some--bert"
    snapshot = repository / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}", encoding="utf-8")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc123", encoding="utf-8")
    return tmp_path


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is allowed, and the hub has every model."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "model_info", lambda name, timeout: None)


def places_tried(name: str, cache: Path, *, allow_download: bool) -> list[tuple[str, bool]]:
    """The calls of `load` when each of them fails."""
    tried: list[tuple[str, bool]] = []

    def load(place: str, local: bool) -> None:
        tried.append((place, local))
        raise OSError("no weights")

    with pytest.raises(UserError, match=f"--pretrained_text {name}: its text encoder cannot be loaded"):
        load_local_first(
            load,
            name,
            what="text encoder",
            files=["config.json"],
            cache_dir=cache,
            allow_download=allow_download,
        )
    return tried


def test_the_first_file_in_the_cache_is_found(cache: Path) -> None:
    snapshot = cache / "models--some--bert" / "snapshots" / "abc123"
    assert cached_file(MODEL, ["absent.json", "config.json"], cache_dir=cache) == snapshot / "config.json"
    assert cached_file(MODEL, ["absent.json"], cache_dir=cache) is None
    assert cached_file("/a/path/of three", ["config.json"], cache_dir=cache) is None


@pytest.mark.usefixtures("online")
def test_an_incomplete_cache_does_not_prevent_a_download(cache: Path) -> None:
    snapshot = str(cache / "models--some--bert" / "snapshots" / "abc123")
    assert places_tried(MODEL, cache, allow_download=True) == [(snapshot, True), (MODEL, False)]
    assert places_tried(MODEL, cache, allow_download=False) == [(snapshot, True)]


@pytest.mark.usefixtures("online")
def test_a_path_is_never_looked_for_on_the_hub(cache: Path) -> None:
    folder = cache / "folder"
    assert places_tried(str(folder), cache, allow_download=True) == []
    folder.mkdir()
    assert places_tried(str(folder), cache, allow_download=True) == [(str(folder), True)]


@pytest.mark.usefixtures("online")
def test_a_name_is_no_folder_of_that_name(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cache)
    for name in ("bert", MODEL):
        Path(name).mkdir(parents=True)
    assert places_tried("bert", cache, allow_download=False) == []
    assert places_tried("./bert", cache, allow_download=False) == [("bert", True)]
    snapshot = str(cache / "models--some--bert" / "snapshots" / "abc123")
    assert places_tried(MODEL, cache, allow_download=False) == [(snapshot, True)]
    (cache / MODEL / "config.json").write_text("{}", encoding="utf-8")  # now it is a model's folder
    assert places_tried(MODEL, cache, allow_download=False) == [(MODEL, True)]
