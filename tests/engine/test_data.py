"""Whether tokenizer, texts, text model and stored frames fit, before the first step."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from common.errors import UserError
from engine.config import Config
from engine.distributed.world import World
from engine.input_spec import input_spec
from engine.inspection import inspect_frames, inspect_texts
from modules.backbones.backbone import Backbone
from modules.backbones.registry import build_backbone
from modules.backbones.request import Request
from modules.backbones.tokenizers import ChineseTokenizer
from tests.dataloaders.test_video_text import dataset
from tests.dataloaders.toy import WordTokenizer, toy_examples, write_bert_vocabulary


def model_with(*, rows: int, folder: str | None = None) -> Any:
    own = build_backbone(Request("toy"))
    backbone = own if folder is None else with_tokenizer_of_bert(own, folder)
    return SimpleNamespace(backbone=dataclasses.replace(backbone, vocab_size=rows))


def with_tokenizer_of_bert(backbone: Backbone, folder: str) -> Backbone:
    return dataclasses.replace(
        backbone,
        tokenizer=lambda language: ChineseTokenizer(folder),
        text_name=f"--pretrained_text {folder}",
    )


def test_a_vocabulary_larger_than_the_embedding_table_is_refused(tmp_path: Path) -> None:
    """Its last ids would end the run at the first text that has one, perhaps after hours."""
    folder = str(write_bert_vocabulary(tmp_path / "bert", list("abcdefg")))  # 5 special tokens and 7 words
    config = Config(language="chinese", pretrained_text=folder)
    assert input_spec(config, model_with(rows=12, folder=folder)).tokenizer.vocab_size == 12
    with pytest.raises(UserError, match=r"--pretrained_text .*bert: .* ids up to 11, but .* has 11 rows"):
        input_spec(config, model_with(rows=11, folder=folder))
    with pytest.raises(UserError, match=r"--clip_model toy: .*49407, but .* has 1000 rows"):
        input_spec(Config(language="english"), model_with(rows=1000))


@pytest.mark.parametrize(("unknown", "warned"), [(2, True), (1, False)])
def test_texts_that_the_tokenizer_does_not_know_are_a_warning(
    unknown: int, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: dict[str, list[str]] = {"info": [], "warning": []}
    log: Any = SimpleNamespace(info=said["info"].append, warning=said["warning"].append)
    examples = toy_examples(videos=25)  # "caption i 0 ..." of 4 words each
    encode = WordTokenizer.encode
    texts = [" ".join(["?"] * unknown + ["word"] * (100 - unknown))]

    def first_text(self: WordTokenizer, text: str, max_words: int) -> Any:
        return encode(self, texts[0], max_words)

    monkeypatch.setattr(WordTokenizer, "encode", first_text)
    inspect_texts(
        Config(pretrained_text="some/bert"),
        dataset(examples, max_words=102),
        World(0, 1, torch.device("cpu")),
        log,
    )
    assert bool(said["warning"]) == warned
    if warned:
        assert (
            "2% of the tokens of 25 inspected texts are unknown to the tokenizer of --pretrained_text"
            in (said["warning"][0])
        )


def test_more_frames_than_are_stored_are_a_warning() -> None:
    warnings: list[str] = []
    log: Any = SimpleNamespace(info=lambda _: None, warning=warnings.append)
    data, world = dataset(toy_examples(videos=3)), World(0, 1, torch.device("cpu"))  # 30 stored frames
    inspect_frames(Config(max_frames=30), data, world, log)
    assert not warnings
    inspect_frames(Config(max_frames=40), data, world, log)
    assert "--max_frames 40: 3 of 3 inspected videos have fewer frames" in warnings[0]
    assert "give at most 30" in warnings[0]
