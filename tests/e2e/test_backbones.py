"""Runs with another backbone than CLIP: a folder of weights and tokenizer, trained, evaluated, searched."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modules.backbones.request import OPEN_CLIP_FILE
from search import Retriever
from tests.e2e.conftest import Toy
from tests.e2e.test_bad_input import refused
from tests.modules.backbones.architectures import TEXTS
from tests.modules.backbones.test_towers import reference
from tests.modules.backbones.toy_tokenizers import write_unigram
from tools.toy.captions import used_characters

Results = Callable[[Path], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as that of SigLIP 2 on the hub: both languages, texts of fixed length, its own pixels."""
    folder = tmp_path_factory.mktemp("siglip")
    config = TEXTS["SigLIP"] | {"languages": ["english", "chinese"]}
    words = ["▁red", "▁blue", "▁square", "▁a", *sorted({*used_characters(), *"abcdefghijklmnopqrstuvwxyz"})]
    config["text_cfg"] = {**config["text_cfg"], "vocab_size": len(words) + 8}
    preprocessing = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
    (folder / OPEN_CLIP_FILE).write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": preprocessing}), encoding="utf-8"
    )
    torch.save(reference(config).state_dict(), folder / "open_clip_pytorch_model.bin")
    write_unigram(folder, words, kind="siglip")
    return folder


def test_one_text_tower_for_both_languages(siglip: Path, toy: Toy, tmp_path: Path, results: Results) -> None:
    flags = ("--clip_model", str(siglip), "--clip_weights", "openai", "--dataset", "vatex", "--use_temp")
    assert toy.run("train", tmp_path / "run", *flags, "--language", "chinese") == 0
    (trained,) = results(tmp_path / "run")
    checkpoint = tmp_path / "run" / "pytorch_model.bin.0"
    state = torch.load(checkpoint, weights_only=True)
    assert "text_encoder.text_projection.bias" in state, "its own text tower, not BERT"
    for language in ("chinese", "english"):
        output = tmp_path / language
        again = ("--init_model", str(checkpoint), *flags, "--language", language)
        assert toy.run("eval", output, *again) == 0
        (result,) = results(output)
        assert result["language"] == language
        assert (result["t2v/MeanR"] == trained["t2v/MeanR"]) == (language == "chinese")
    retriever = Retriever.from_checkpoint(checkpoint, device="cpu")
    assert retriever.image_size.mode == "squash"  # type: ignore[union-attr]
    assert retriever.encode_text(["红色"]).shape == (1, 16)
    assert retriever.encode_picture(np.zeros((20, 60, 3), np.uint8)).shape == (16,)


def test_a_language_that_the_tokenizer_does_not_cover_ends_the_run(
    toy: Toy, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    flags = ("--dataset", "vatex", "--language", "chinese", "--text_tower", "clip")
    line = refused(toy, capsys, tmp_path, *flags)
    assert re.search(r"\d\d% of the tokens .* or only parts of characters: it does not cover", line)
