"""Captions to token ids: CLIP's English tokenizer, and Chinese ones from transformers.

Shapes: W words, the start and end tokens included.
A caption cannot hold a special token: "[SEP]" or "<end_of_text>" in its text are read letter by letter.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from modules.backbones.hub import load_local_first

PADDING = 0
_VOCABULARIES = ("vocab.txt", "tokenizer.json")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
Encoded = tuple[NDArray[np.int64], NDArray[np.int64], bool]


class ClipTokenizer:
    """CLIP's byte-pair tokenizer, from open_clip, which ships its vocabulary.

    Raises `UserError` where ftfy or open_clip is not installed. Without ftfy accented letters would get other
    ids.
    """

    source = "--clip_model: CLIP's own"
    start_token_id = 49406
    end_token_id = 49407
    # CLIP's vocabulary has no mask token; this rare word takes its place.
    mask_token_id = 49394
    special_ids: tuple[int, ...] = (49406, 49407)
    special_counts = (1, 1)
    vocab_size = 49408

    def __init__(self) -> None:
        self._bpe = _plain_text_bpe()
        assert self._bpe.vocab_size == self.vocab_size
        # It knows every byte. A letter of another writing is cut into them.
        words = ((word.removesuffix("</w>"), number) for word, number in self._bpe.encoder.items())
        self.unknown_ids = incomplete_characters(words, of_bytes=True)

    def encode(self, text: str, max_words: int) -> Encoded:
        return frame_ids(
            self._bpe.encode(text), max_words=max_words, start=self.start_token_id, end=self.end_token_id
        )


class ChineseTokenizer:
    """The tokenizer of a BERT-class encoder: a folder, or a name on the Hugging Face hub.

    The cache (`cache_dir`, or the hub's own) is tried before the network; `allow_download=False` forbids the
    network. `legacy_special_tokens` puts [UNK] in the place of [CLS] and [SEP], as in the published
    VATEX-Chinese model. Raises `UserError` that says what to fetch and where to put it.
    """

    def __init__(
        self,
        name_or_folder: str,
        *,
        legacy_special_tokens: bool = False,
        cache_dir: str | None = None,
        allow_download: bool = True,
    ) -> None:
        # Data workers are forked after the first use: the library would warn in each and then do the same.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._tokenizer = _load_pretrained(name_or_folder, cache_dir=cache_dir, allow_download=allow_download)
        self.source = f"--pretrained_text {name_or_folder}"
        self.unknown_ids: tuple[int, ...] = (self._tokenizer.unk_token_id,)
        unknown = self._tokenizer.unk_token_id
        self.start_token_id: int = unknown if legacy_special_tokens else self._tokenizer.cls_token_id
        self.end_token_id: int = unknown if legacy_special_tokens else self._tokenizer.sep_token_id
        self.mask_token_id: int = self._tokenizer.mask_token_id
        self.special_ids: tuple[int, ...] = tuple(sorted(self._tokenizer.all_special_ids))
        self.special_counts = (1, 1)
        self.vocab_size: int = 1 + max(self._tokenizer.get_vocab().values())

    def encode(self, text: str, max_words: int) -> Encoded:
        tokens = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        return frame_ids(
            tokens["input_ids"], max_words=max_words, start=self.start_token_id, end=self.end_token_id
        )


def frame_ids(tokens: list[int], *, max_words: int, start: int, end: int) -> Encoded:
    """Ids [W]: start, tokens cut to W - 2, end, zeros; mask [W], 1 on tokens; whether tokens were cut off."""
    return frame_tokens(tokens, max_words=max_words, before=[start], after=[end])


def frame_tokens(
    tokens: list[int],
    *,
    max_words: int,
    before: list[int],
    after: list[int],
    marked_after: int | None = None,
    padding: int = PADDING,
) -> Encoded:
    """Ids [W]: `before`, tokens cut to the rest, `after`, `padding`; mask [W]; whether tokens were cut off.

    The mask is 1 on tokens, of `after` on the first `marked_after` (None: all).
    """
    room = max_words - len(before) - len(after)
    assert room >= 0, "the special tokens take positions"
    framed = [*before, *tokens[:room], *after]
    ids = np.full(max_words, padding, dtype=np.int64)
    ids[: len(framed)] = framed
    mask = np.zeros(max_words, dtype=np.int64)
    mask[: len(framed) - (0 if marked_after is None else len(after) - marked_after)] = 1
    return ids, mask, len(tokens) > room


def incomplete_characters(vocabulary: Iterable[tuple[str, int]], *, of_bytes: bool) -> tuple[int, ...]:
    """The ids of a vocabulary that stand for a part of a character.

    Texts in a writing that a vocabulary was not made for consist of them. `of_bytes`: its tokens are written
    in GPT-2's letters for bytes; otherwise tokens like <0xE4> stand for single bytes.
    """
    from open_clip.tokenizer import bytes_to_unicode

    if not of_bytes:
        return tuple(sorted(number for token, number in vocabulary if _BYTE.fullmatch(token)))
    byte_of = {letter: number for number, letter in bytes_to_unicode().items()}
    return tuple(
        sorted(
            number
            for token, number in vocabulary
            # Most tokens are ASCII, and their letters stand for themselves.
            if not token.isascii()
            and set(token) <= byte_of.keys()
            and not _is_text(bytes(byte_of[letter] for letter in token))
        )
    )


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _plain_text_bpe() -> Any:
    """open_clip's tokenizer, changed so that it does not recognise its two special tokens in a text."""
    try:
        import ftfy  # noqa: F401
        import regex
        from open_clip.tokenizer import SimpleTokenizer
    except ImportError as error:
        raise UserError(
            f"CLIP's tokenizer needs the package {error.name}: pip install -r requirements.txt"
        ) from error
    bpe = SimpleTokenizer()
    bpe.cache.clear()
    # CLIP's rule for words: contractions, runs of letters, single digits, runs of anything else.
    bpe.pat = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.IGNORECASE)
    return bpe


def _load_pretrained(name: str, *, cache_dir: str | None, allow_download: bool) -> Any:
    def load(place: str, local: bool) -> Any:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(place, cache_dir=cache_dir, local_files_only=local)
        # Without a vocabulary some versions of transformers give a tokenizer of the special tokens only.
        if len(tokenizer) <= len(tokenizer.all_special_ids):
            raise FileNotFoundError("no vocabulary")
        return tokenizer

    tokenizer = load_local_first(
        load, name, what="tokenizer", files=_VOCABULARIES, cache_dir=cache_dir, allow_download=allow_download
    )
    for token in ("cls_token", "sep_token", "mask_token", "unk_token"):
        if getattr(tokenizer, token) is None:
            raise UserError(
                f"--pretrained_text {name}: its tokenizer has no {token}; choose a BERT-class model"
            )
    return tokenizer
