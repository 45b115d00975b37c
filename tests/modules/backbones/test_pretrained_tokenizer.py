"""Tokenizers of transformers: open_clip's ids, special tokens, and text that the vocabulary lacks."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import UserError
from modules.backbones.pretrained_tokenizer import PretrainedTokenizer
from modules.backbones.tokenizers import ClipTokenizer
from tests.modules.backbones.toy_tokenizers import KINDS, write_bytes, write_unigram

WORDS = ("▁a", "▁man", "▁sings", "一", "个", "人")
TEXTS = ("A man sings.", "a  man", "一个人", "猫 a", "a " * 40, "")


def load(folder: str, **options: Any) -> PretrainedTokenizer:
    return PretrainedTokenizer(folder, flag="--clip_model some", **options)


@pytest.mark.parametrize("clean", ["whitespace", "canonicalize", "lower"])
@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_open_clip(kind: str, clean: str, tmp_path: Path) -> None:
    from open_clip.tokenizer import HFTokenizer

    folder = write_unigram(tmp_path, WORDS, kind=kind)
    ours, theirs = load(folder, clean=clean), HFTokenizer(folder, context_length=9, clean=clean)
    for text in TEXTS:
        ids, mask, cut = ours.encode(text, 9)
        assert ids.tolist() == theirs(text)[0].tolist(), text
        assert cut == (text == TEXTS[4])
        assert mask.sum() == min(9, len(theirs.tokenizer(ours._clean(text))["input_ids"]))
    assert ours.pad_id == KINDS[kind][0].index(KINDS[kind][2])
    assert ours.special_counts == ((1, 1) if kind == "xlm-r" else (0, 1))


def test_a_stripped_end_token_is_padding(tmp_path: Path) -> None:
    """CLIPA reads zeros in place of the end token."""
    from open_clip.tokenizer import HFTokenizer

    folder = write_unigram(tmp_path, WORDS, kind="gemma")
    theirs = HFTokenizer(folder, context_length=6)
    theirs.tokenizer.sep_token = "<eos>"
    theirs.strip_sep_token = True
    ours = load(folder, strip_sep=True)
    for text in ("a man", "a " * 9):
        ids, mask, _ = ours.encode(text, 6)
        assert ids.tolist() == theirs(text)[0].tolist()
        assert mask.sum() == min(5, len(text.split()))
    assert ours.special_counts == (0, 0)


def test_text_never_becomes_a_special_token(tmp_path: Path) -> None:
    ids, mask, _ = load(write_unigram(tmp_path, WORDS)).encode("</s> <s> a", 20)
    assert set(ids[1 : mask.sum() - 1].tolist()).isdisjoint({0, 1, 2})


def share_unknown(tokenizer: Any, text: str) -> float:
    ids, mask, _ = tokenizer.encode(text, 60)
    before, after = tokenizer.special_counts
    return float(np.isin(ids[before : mask.sum() - after], tokenizer.unknown_ids).mean())


def test_unknown_letters_and_parts_of_characters_are_counted(tmp_path: Path) -> None:
    pieces, letters = load(write_unigram(tmp_path / "u", WORDS)), load(write_bytes(tmp_path / "b"))
    assert share_unknown(pieces, "a man 一个人") == 0 or pieces.encode("一", 9)[0].tolist()[1] == 4
    assert share_unknown(pieces, "a猫狗") >= 0.5
    assert share_unknown(letters, "a man sings") == 0
    assert share_unknown(letters, "一个人") == 1
    clip = ClipTokenizer()
    assert share_unknown(clip, "a man sings, café") == 0
    assert share_unknown(clip, "一个男人在唱歌") > 0.9


def test_the_mask_token_is_a_rare_word_where_there_is_none(tmp_path: Path) -> None:
    tokenizer = load(write_unigram(tmp_path, WORDS))
    assert tokenizer.mask_token_id == tokenizer.vocab_size - 1 == 4 + len(WORDS)
    assert tokenizer.mask_token_id not in tokenizer.special_ids


def test_it_can_be_pickled(tmp_path: Path) -> None:
    tokenizer = load(write_unigram(tmp_path, WORDS, kind="siglip"), clean="canonicalize")
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode("A man!", 6)[0].tolist() == tokenizer.encode("A man!", 6)[0].tolist()


def test_an_absent_tokenizer_says_what_to_fetch() -> None:
    pattern = (
        r"--clip_model some: its tokenizer some/words cannot be loaded .*; fetch tokenizer\.json and "
        r"tokenizer_config\.json of https://huggingface\.co/some/words .* --tokenizer FOLDER$"
    )
    with pytest.raises(UserError, match=pattern):
        load("some/words", allow_download=False)
    with pytest.raises(UserError, match="cleans texts by 'magic'"):
        load("some/words", clean="magic")
