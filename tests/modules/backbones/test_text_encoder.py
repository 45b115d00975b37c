from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.constants
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from common.errors import UserError
from modules.backbones import text_encoder
from modules.backbones.clip_towers import build_clip
from modules.backbones.text_encoder import ChineseTextEncoder, ClipTextEncoder
from tests.device import DEVICE
from tests.modules import tiny

BERT = {
    "model_type": "bert",
    "vocab_size": 53,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
}


@pytest.fixture
def bert_folder(tmp_path: Path) -> Path:
    """A folder as transformers saves it, with random weights."""
    (tmp_path / "config.json").write_text(json.dumps(BERT), encoding="utf-8")
    encoder: Any = ChineseTextEncoder(tmp_path, embed_dim=8, pretrained=False).chinese_encoder
    encoder.save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Attempts to open a connection, each of which fails."""
    attempts: list[str] = []

    def refuse(self: Any, address: Any, *args: Any) -> None:
        attempts.append(str(address))
        raise OSError("no network in this test")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", lambda host, *args, **kwargs: refuse(None, host))
    return attempts


def test_the_first_words_give_what_the_whole_context_gives() -> None:
    clip: Any = build_clip(tiny.CLIP_CONFIG).eval().to(DEVICE)
    encoder = ClipTextEncoder(clip)
    ids = tiny.batch()["text_ids"]
    padded = torch.nn.functional.pad(ids, (0, encoder.context_length - ids.shape[1]))
    with torch.no_grad():
        text, hidden = encoder(ids)
        assert torch.allclose(text, clip.encode_text(padded), atol=1e-6)
    assert hidden.shape == (4, tiny.WORDS, 32)
    assert torch.allclose(text, hidden[:, -1])  # the end token has the largest id
    assert (encoder.embed_dim, encoder.vocab_size, encoder.context_length) == (32, 99, 12)


def test_later_words_do_not_change_earlier_ones() -> None:
    encoder = tiny.encoders()[1]
    ids = tiny.batch()["text_ids"]
    changed = ids.clone()
    changed[:, 5] = 1
    with torch.no_grad():
        assert torch.allclose(encoder(ids)[1][:, :5], encoder(changed)[1][:, :5], atol=1e-6)


def test_more_words_than_positions_are_refused(bert_folder: Path) -> None:
    with pytest.raises(UserError, match="13 words a text.*12 positions"):
        tiny.encoders()[1](torch.ones(1, 13, dtype=torch.long))
    with pytest.raises(UserError, match="21 words a text.*20 positions"):
        ChineseTextEncoder(bert_folder, embed_dim=8).to(DEVICE)(torch.ones(1, 21, dtype=torch.long))


def test_chinese_encoder_reads_a_folder_without_the_network(bert_folder: Path, no_network: list[str]) -> None:
    encoder = ChineseTextEncoder(bert_folder, embed_dim=8).eval().to(DEVICE)
    stored = load_file(str(bert_folder / "model.safetensors"))
    loaded = encoder.chinese_encoder.state_dict()
    assert all(torch.equal(loaded[name].cpu(), value) for name, value in stored.items())
    ids = torch.tensor([[2, 7, 9, 3, 0, 0], [2, 8, 3, 0, 0, 0]])
    text, hidden = encoder(ids, (ids > 0).long())
    assert text.shape == (2, 8) and hidden.shape == (2, 6, 8)
    shorter = encoder(ids[:, :4], (ids[:, :4] > 0).long())[0]
    assert torch.allclose(text, shorter, atol=1e-5)
    assert (encoder.embed_dim, encoder.vocab_size, encoder.context_length) == (8, 53, 20)
    assert no_network == []


def test_a_name_in_the_cache_is_read_without_the_network(
    bert_folder: Path, tmp_path: Path, no_network: list[str]
) -> None:
    repository = tmp_path / "cache" / "models--some--bert"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc123", encoding="utf-8")
    snapshot = repository / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    for file in bert_folder.glob("*.*"):
        shutil.copy(file, snapshot)
    encoder = ChineseTextEncoder("some/bert", embed_dim=8, cache_dir=tmp_path / "cache")
    assert encoder.vocab_size == 53
    assert no_network == []


def test_half_precision_weights_become_float32(bert_folder: Path) -> None:
    path = bert_folder / "model.safetensors"
    save_file({k: v.half() for k, v in load_file(str(path)).items()}, str(path), metadata={"format": "pt"})
    encoder = ChineseTextEncoder(bert_folder, embed_dim=8)
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}


def test_an_unknown_name_says_what_to_fetch(no_network: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"some/bert.*huggingface\.co/some/bert.*--pretrained_text"):
        ChineseTextEncoder("some/bert", embed_dim=8, cache_dir=tmp_path, local_files_only=True)
    assert no_network == []
    with pytest.raises(UserError, match="its text encoder cannot be loaded.*must hold config.json"):
        ChineseTextEncoder(tmp_path, embed_dim=8)
    assert no_network == []


def test_missing_weights_are_refused_except_the_poolers(
    bert_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = bert_folder / "model.safetensors"
    state = load_file(str(path))
    without_pooler = {k: v for k, v in state.items() if "pooler" not in k}
    save_file(without_pooler, str(path), metadata={"format": "pt"})
    with caplog.at_level(logging.WARNING, logger="modules.backbones.text_encoder"):
        encoder = ChineseTextEncoder(bert_folder, embed_dim=8)
    assert "no pooler weights" in caplog.text
    assert len(encoder.pooler_parameters()) == 2
    save_file({k: v for k, v in state.items() if "layer.0" not in k}, str(path), metadata={"format": "pt"})
    with pytest.raises(UserError, match="lacks 16 weights of its architecture"):
        ChineseTextEncoder(bert_folder, embed_dim=8)


def test_a_failed_download_says_what_to_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def no_connection(source: str, **options: Any) -> None:
        asked.append((source, options["local_files_only"]))
        raise OSError("We couldn't connect\nCheck your internet connection")

    monkeypatch.setattr(text_encoder, "_pretrained_bert", no_connection)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "model_info", lambda name, timeout: None)
    with pytest.raises(UserError, match=r"some/bert.*\(We couldn't connect\).*--pretrained_text FOLDER$"):
        ChineseTextEncoder("some/bert", embed_dim=8, cache_dir=tmp_path)
    assert asked == [("some/bert", False)]
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="network is not to be used"):
        ChineseTextEncoder("some/bert", embed_dim=8, cache_dir=tmp_path)
    assert len(asked) == 1


def test_bert_gets_a_mask_that_it_need_not_look_into(bert_folder: Path) -> None:
    """The numbers are those of a mask [B, W], with and without padding."""
    encoder = ChineseTextEncoder(bert_folder, embed_dim=8).eval()
    ids = torch.randint(1, 53, (3, 6), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 4:] = mask[2, 1:] = 0
    for text_mask in (mask, torch.ones_like(mask)):
        with torch.no_grad():
            _, hidden = encoder(ids, text_mask)
            plain = encoder.chinese_encoder(input_ids=ids, attention_mask=text_mask)
            assert torch.allclose(hidden, encoder.text_proj(plain.last_hidden_state), atol=1e-6)


def test_encoders_that_take_masks_of_words_only_get_these(bert_folder: Path) -> None:
    encoder = ChineseTextEncoder(bert_folder, embed_dim=8)
    shapes: list[torch.Size] = []
    encoder.chinese_encoder.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(kwargs["attention_mask"].shape), with_kwargs=True
    )
    ids = torch.ones(2, 5, dtype=torch.long)
    encoder(ids, torch.ones_like(ids))
    encoder.chinese_encoder.config._attn_implementation = "eager"  # type: ignore[union-attr]
    encoder(ids, torch.ones_like(ids))
    assert shapes[-1] == (2, 5)
    if int(transformers.__version__.split(".")[0]) >= 5:
        assert shapes[0] == (2, 1, 1, 5)
