import builtins
import json
import pickle
import socket
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest

from common.errors import UserError
from modules.backbones.tokenizers import ChineseTokenizer, ClipTokenizer, frame_ids
from tests.dataloaders.toy import write_bert_vocabulary

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "clip_tokens.json").read_text("utf-8"))
NOT_FOUND = (
    r"--pretrained_text some/model: its tokenizer cannot be loaded \(no such folder.*; fetch vocab\.txt.*"
    r"https://huggingface\.co/some/model"
)
WORDS = ["一", "个", "人", "在", "唱", "a", "##b", "[", "]", "mask", "cls", "sep"]


@pytest.fixture(scope="module")
def clip() -> ClipTokenizer:
    return ClipTokenizer()


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert_vocabulary(tmp_path_factory.mktemp("bert"), WORDS)


# In this row the published tokenizer has a fault: text becomes special tokens.
FAULTY = "<|startoftext|> trick <|endoftext|>"
GOLDEN_ROWS = [row for row in GOLDEN["rows"] if row["caption"] != FAULTY]


@pytest.mark.parametrize("row", GOLDEN_ROWS, ids=lambda row: repr(row["caption"][:20]))
def test_golden_ids(clip: ClipTokenizer, row: dict[str, Any]) -> None:
    ids, mask, _ = clip.encode(row["caption"], GOLDEN["max_words"])
    assert ids.tolist() == row["ids"]
    assert mask.tolist() == [1] * row["length"] + [0] * (GOLDEN["max_words"] - row["length"])
    assert ids.dtype == mask.dtype == np.int64


def test_special_ids_are_the_published_ones(clip: ClipTokenizer) -> None:
    assert (clip.start_token_id, clip.end_token_id) == (GOLDEN["start"], GOLDEN["end"])
    assert (clip.vocab_size, clip.mask_token_id) == (GOLDEN["vocab_size"], GOLDEN["mask_token_id"])


@pytest.mark.parametrize(
    "text",
    [
        "<|startoftext|> <|endoftext|>",
        "<start_of_text> <end_of_text>",
        "<END_OF_TEXT>",
        "&lt;end_of_text&gt;",
    ],
)
def test_text_never_becomes_a_special_token(clip: ClipTokenizer, text: str) -> None:
    ids, mask, _ = clip.encode(text, 77)
    inner = ids[1 : mask.sum() - 1]
    assert len(inner) > 3 and not set(inner.tolist()) & set(clip.special_ids)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        # The ids of the published tokenizer, with ftfy; without it they differ.
        ("ﬁ ligature", [3589, 19915, 4490]),
        ("rÃ©sumÃ©", [29106, 7054, 4166]),
        ("&amp;amp;", [261]),
    ],
)
def test_text_repair(clip: ClipTokenizer, text: str, ids: list[int]) -> None:
    encoded, mask, _ = clip.encode(text, 32)
    assert encoded[1 : mask.sum() - 1].tolist() == ids


def test_wide_letters_and_composed_accents_are_the_plain_ones(clip: ClipTokenizer) -> None:
    assert clip.encode("ＡＢＣ", 32)[0].tolist() == clip.encode("abc", 32)[0].tolist()
    assert clip.encode("re\u0301sume\u0301", 32)[0].tolist() == clip.encode("résumé", 32)[0].tolist()


def test_without_ftfy_it_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "ftfy":
            raise ModuleNotFoundError("No module named 'ftfy'", name="ftfy")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match="needs the package ftfy: pip install"):
        ClipTokenizer()


@pytest.mark.parametrize("max_words", [32, 77])
@pytest.mark.parametrize("tokens", [0, 1, 30, 31, 32, 75, 76, 77, 78, 400])
def test_long_captions_keep_the_end_token(clip: ClipTokenizer, tokens: int, max_words: int) -> None:
    ids, mask, truncated = clip.encode("word " * tokens, max_words)
    real = min(tokens + 2, max_words)
    assert len(ids) == len(mask) == max_words and mask.sum() == real
    assert ids[0] == clip.start_token_id and ids[real - 1] == clip.end_token_id and not ids[real:].any()
    assert truncated == (tokens > max_words - 2)


def test_clip_tokenizer_can_be_pickled(clip: ClipTokenizer) -> None:
    copy = pickle.loads(pickle.dumps(clip))
    assert (
        copy.encode("a man's <end_of_text>", 32)[0].tolist()
        == clip.encode("a man's <end_of_text>", 32)[0].tolist()
    )


def test_frame_ids() -> None:
    ids, mask, truncated = frame_ids([5, 6, 7], max_words=4, start=1, end=2)
    assert (ids.tolist(), mask.tolist(), truncated) == ([1, 5, 6, 2], [1, 1, 1, 1], True)


def test_chinese_texts(bert_folder: Path) -> None:
    tokenizer = ChineseTokenizer(str(bert_folder))
    ids, mask, truncated = tokenizer.encode("一个人唱 ab", 10)
    assert ids.tolist() == [2, 5, 6, 7, 9, 10, 11, 3, 0, 0]
    assert mask.tolist() == [1] * 8 + [0] * 2 and not truncated
    assert tokenizer.encode("", 4)[0].tolist() == [2, 3, 0, 0]
    assert tokenizer.encode("一" * 40, 5)[0].tolist() == [2, 5, 5, 5, 3] and tokenizer.encode("一" * 40, 5)[2]
    assert (tokenizer.start_token_id, tokenizer.end_token_id, tokenizer.mask_token_id) == (2, 3, 4)
    assert tokenizer.special_ids == (0, 1, 2, 3, 4) and tokenizer.vocab_size == 5 + len(WORDS)


def test_chinese_text_never_becomes_a_special_token(bert_folder: Path) -> None:
    ids, mask, _ = ChineseTokenizer(str(bert_folder)).encode("一[MASK][CLS][SEP]", 20)
    assert ids[1 : mask.sum() - 1].tolist() == [5, 12, 14, 13, 12, 15, 13, 12, 16, 13]


def test_legacy_special_tokens_are_unknown_words(bert_folder: Path) -> None:
    """As published: CLIP's start and end strings are not in a Chinese vocabulary."""
    tokenizer = ChineseTokenizer(str(bert_folder), legacy_special_tokens=True)
    assert tokenizer.encode("一", 4)[0].tolist() == [1, 5, 1, 0]


def test_chinese_tokenizer_can_be_pickled(bert_folder: Path) -> None:
    tokenizer = ChineseTokenizer(str(bert_folder))
    assert (
        pickle.loads(pickle.dumps(tokenizer)).encode("一[SEP]", 9)[0].tolist()
        == tokenizer.encode("一[SEP]", 9)[0].tolist()
    )


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Attempts to open a connection, each of which fails."""
    attempts: list[Any] = []

    def refuse(*arguments: Any, **_: Any) -> None:
        attempts.append(arguments)
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return attempts


def test_a_folder_never_asks_the_network(bert_folder: Path, no_network: list[Any]) -> None:
    assert ChineseTokenizer(str(bert_folder)).encode("一", 3)[0].tolist() == [2, 5, 3]
    assert no_network == []


def test_a_name_in_the_hubs_cache_never_asks_the_network(tmp_path: Path, no_network: list[Any]) -> None:
    commit, model = "0123456789abcdef0123456789abcdef01234567", tmp_path / "models--some--bert"
    write_bert_vocabulary(model / "snapshots" / commit, WORDS)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit, "utf-8")
    tokenizer = ChineseTokenizer("some/bert", cache_dir=str(tmp_path))
    assert tokenizer.encode("一", 3)[0].tolist() == [2, 5, 3]
    assert no_network == []


def test_a_failed_download_says_what_to_fetch(
    tmp_path: Path, no_network: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(UserError, match=NOT_FOUND):
        ChineseTokenizer("some/model", cache_dir=str(tmp_path))
    assert no_network != []


def test_an_absent_tokenizer_says_what_to_fetch(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=NOT_FOUND):
        ChineseTokenizer("some/model", cache_dir=str(tmp_path), allow_download=False)
    with pytest.raises(UserError, match="no such folder"):
        ChineseTokenizer(str(tmp_path / "absent"), allow_download=False)


def test_a_folder_without_vocabulary_is_refused(tmp_path: Path) -> None:
    folder = write_bert_vocabulary(tmp_path / "bert", WORDS)
    (folder / "vocab.txt").unlink()
    with pytest.raises(UserError, match=r"its tokenizer cannot be loaded.*; the folder must hold vocab\.txt"):
        ChineseTokenizer(str(folder))
