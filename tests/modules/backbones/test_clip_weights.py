from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import open_clip.pretrained
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from common.errors import UserError
from modules.backbones.clip_towers import build_clip
from modules.backbones.clip_weights import load_clip_weights
from tests.modules import tiny

QUICK = "ViT-B-32-quickgelu"


def filled(value: float = 0.25) -> dict[str, Tensor]:
    """A complete state of the tiny model in half precision, as published weights are."""
    state = build_clip(tiny.CLIP_CONFIG).state_dict()
    return {name: torch.full_like(tensor, value).half() for name, tensor in state.items()}


def assert_loaded(path: Path) -> None:
    clip = build_clip(tiny.CLIP_CONFIG)
    load_clip_weights(clip, str(path), name="tiny")
    for name, tensor in clip.state_dict().items():
        assert tensor.dtype == torch.float32 and (tensor == 0.25).all(), name


def script_archive(state: dict[str, Tensor], path: Path) -> None:
    """A TorchScript file whose state dict is `state`, as OpenAI's."""
    root = nn.Module()
    for name, value in state.items():
        *parents, leaf = name.split(".")
        place = root
        for part in parents:
            if not hasattr(place, part):
                place.add_module(part, nn.Module())
            place = getattr(place, part)
        place.register_parameter(leaf, nn.Parameter(value, requires_grad=False))
    for name in ("input_resolution", "context_length", "vocab_size"):
        root.register_buffer(name, torch.tensor(7))
    torch.jit.script(root).save(str(path))


@pytest.mark.parametrize("form", ["state", "wrapped", "prefixed", "safetensors", "torchscript"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_every_form_of_file_loads_as_float32(form: str, tmp_path: Path) -> None:
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pt")
    state = filled()
    if form == "safetensors":
        save_file(state, str(path))
    elif form == "torchscript":
        script_archive(state, path)
    else:
        states = {
            "state": {**state, "input_resolution": torch.tensor(32)},
            "wrapped": {"epoch": 3, "state_dict": state},
            "prefixed": {f"module.{name}": value for name, value in state.items()},
        }
        torch.save(states[form], path)
    assert_loaded(path)


def test_none_leaves_the_weights_alone() -> None:
    clip = build_clip(tiny.CLIP_CONFIG)
    before = {name: tensor.clone() for name, tensor in clip.state_dict().items()}
    load_clip_weights(clip, "none", name="tiny")
    assert all(torch.equal(before[name], tensor) for name, tensor in clip.state_dict().items())


def test_another_architecture_is_refused_with_counts_and_names(tmp_path: Path) -> None:
    state = filled()
    state["visual.positional_embedding"] = torch.zeros(50, 64)
    del state["ln_final.bias"], state["ln_final.weight"]
    state["extra"] = torch.zeros(1)
    path = tmp_path / "other.pt"
    torch.save(state, path)
    clip = build_clip(tiny.CLIP_CONFIG)
    before = {name: tensor.clone() for name, tensor in clip.state_dict().items()}
    with pytest.raises(
        ValueError,
        match=r"not the weights of tiny: 2 missing, 1 unknown, 1 of another shape; "
        r"first visual\.positional_embedding \[50, 64\] for \[5, 64\], ln_final",
    ):
        load_clip_weights(clip, str(path), name="tiny")
    assert all(torch.equal(before[name], tensor) for name, tensor in clip.state_dict().items())


def test_a_file_without_the_logit_scale_is_complete(tmp_path: Path) -> None:
    state = filled()
    del state["logit_scale"]
    torch.save(state, tmp_path / "weights.pt")
    load_clip_weights(build_clip(tiny.CLIP_CONFIG), str(tmp_path / "weights.pt"), name="tiny")


class Hostile:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("hostile"),))


@pytest.mark.parametrize("content", ["code", "text", "empty", "archive"])
def test_pickled_code_and_damaged_files_are_refused(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pt"
    if content == "code":
        torch.save({"state_dict": Hostile()}, path)
    elif content == "archive":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("weights/constants.pkl", b"not TorchScript")
    else:
        path.write_bytes(b"" if content == "empty" else b"not weights")
    with pytest.raises(UserError, match=r"weights\.pt: not readable as weights") as refusal:
        load_clip_weights(build_clip(tiny.CLIP_CONFIG), str(path), name="tiny")
    assert "weights_only" not in str(refusal.value), "torch's advice is to load it unsafely"
    assert not (tmp_path / "hostile").exists()


def test_an_unknown_tag_lists_the_known_ones() -> None:
    clip = nn.Module()
    with pytest.raises(UserError, match="'opnai': no tag that.*openai.*'none' starts from random weights"):
        load_clip_weights(clip, "opnai", name=QUICK)
    with pytest.raises(UserError, match="knows none"):
        load_clip_weights(clip, "openai", name="toy")
    with pytest.raises(UserError, match=r"absent\.pt: no such file .--clip_weights"):
        load_clip_weights(clip, "absent.pt", name=QUICK)


def test_a_tag_is_no_file_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("openai").write_bytes(b"no weights")
    Path("other").write_bytes(b"no weights")
    with pytest.raises(UserError, match="ViT-B-32.pt"):  # not read as weights: looked for in the cache
        load_clip_weights(nn.Module(), "openai", name=QUICK, cache_dir=tmp_path, allow_download=False)
    with pytest.raises(UserError, match=r"'other': no tag .*for the file of this name give \./other"):
        load_clip_weights(nn.Module(), "other", name=QUICK)


def test_without_cache_and_network_it_says_what_to_fetch_and_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*args: Any, **kwargs: Any) -> str:
        raise OSError("no network")

    monkeypatch.setattr(open_clip.pretrained, "download_pretrained", no_network)
    with pytest.raises(UserError) as failure:
        load_clip_weights(nn.Module(), "openai", name=QUICK, cache_dir=tmp_path)
    message = str(failure.value)
    assert "\n" not in message
    assert "https://openaipublic.azureedge.net/clip/models/" in message
    assert "https://huggingface.co/timm/vit_base_patch32_clip_224.openai" in message
    assert str(tmp_path / "ViT-B-32.pt") in message and "--clip_weights FILE" in message


def test_forbidden_download_is_never_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_clip.pretrained, "download_pretrained", lambda *a, **k: pytest.fail("tried"))
    with pytest.raises(UserError, match="not in the cache"):
        load_clip_weights(nn.Module(), "openai", name=QUICK, cache_dir=tmp_path, allow_download=False)


def test_a_file_in_the_cache_is_used_without_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = filled()
    torch.save(state, tmp_path / "tiny-openai.pt")
    digest = hashlib.sha256((tmp_path / "tiny-openai.pt").read_bytes()).hexdigest()
    config = {"url": f"https://example.org/{digest}/tiny-openai.pt", "quick_gelu": True}
    monkeypatch.setattr(open_clip.pretrained, "get_pretrained_cfg", lambda name, tag: config)
    monkeypatch.setattr(open_clip.pretrained, "download_pretrained", lambda *a, **k: pytest.fail("tried"))
    clip = build_clip(tiny.CLIP_CONFIG)
    load_clip_weights(clip, "openai", name="tiny", cache_dir=tmp_path)
    assert clip.get_parameter("ln_final.weight")[0].item() == 0.25


def test_quickgelu_weights_need_a_quickgelu_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(filled(), tmp_path / "tiny-openai.pt")
    config = {"url": "https://example.org/tiny-openai.pt", "quick_gelu": True}
    monkeypatch.setattr(open_clip.pretrained, "get_pretrained_cfg", lambda name, tag: config)
    plain = tmp_path / "plain.json"
    plain.write_text(
        Path(tiny.CLIP_CONFIG).read_text(encoding="utf-8").replace('"quick_gelu": true,', ""),
        encoding="utf-8",
    )
    with pytest.raises(UserError, match="QuickGELU.*'plain-quickgelu'"):
        load_clip_weights(build_clip(str(plain)), "openai", name="plain", cache_dir=tmp_path)
