"""Tokenizers of transformers as the text towers of open_clip and transformers were trained with them.

Shapes: W words, the special tokens before and after a text included.
"""

from __future__ import annotations

import os
from typing import Any

from common.errors import UserError
from modules.backbones.hub import load_local_first
from modules.backbones.tokenizers import Encoded, frame_tokens, incomplete_characters

FILES = ("tokenizer.json", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
CLEANINGS = ("whitespace", "lower", "canonicalize")
# Translation models mark the language of a text by a token (Costa-jussà et al. 2022).
LANGUAGE_CODES = {"english": "eng_Latn", "chinese": "zho_Hans"}
_SAMPLE = "a"


class PretrainedTokenizer:
    """A tokenizer of transformers with the special tokens that it puts around a text itself.

    `name` is a folder, or a name on the Hugging Face hub; the cache is tried before the network. `clean` is
    open_clip's name of what is done to a text first: whitespace, lower case ("lower"), or lower case without
    punctuation ("canonicalize", SigLIP). With `strip_sep` zeros stand for the end token (CLIPA). `language`
    is that of the texts, for tokenizers that mark it. `mask_token_id`, where the vocabulary has none, is the
    last ordinary id, a rare word.
    Raises `UserError` that says what to fetch; `flag` is where the name comes from.
    """

    def __init__(
        self,
        name: str,
        *,
        flag: str,
        language: str = "english",
        clean: str = "whitespace",
        strip_sep: bool = False,
        cache_dir: str | None = None,
        allow_download: bool = True,
    ) -> None:
        from open_clip.tokenizer import get_clean_fn

        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # data workers are forked
        if clean not in CLEANINGS:
            raise UserError(f"{flag}: its tokenizer cleans texts by {clean!r}, not by {', '.join(CLEANINGS)}")
        self._tokenizer = _load(name, flag=flag, cache_dir=cache_dir, allow_download=allow_download)
        self.source = flag
        self._clean: Any = get_clean_fn(clean)
        if callable(getattr(self._tokenizer, "set_src_lang_special_tokens", None)):
            self._tokenizer.src_lang = LANGUAGE_CODES[language]
        before, after = self._special_tokens()
        self.pad_id: int = self._tokenizer.pad_token_id or 0
        self._before, self._after = before, [self.pad_id if strip_sep else token for token in after]
        self._marked_after = 0 if strip_sep else len(after)
        self.special_counts = (len(before), self._marked_after)
        self.special_ids: tuple[int, ...] = tuple(sorted({*self._tokenizer.all_special_ids, *before, *after}))
        vocabulary: dict[str, int] = self._tokenizer.get_vocab()
        self.vocab_size = 1 + max(vocabulary.values())
        self.start_token_id: int = before[0] if before else self.pad_id
        self.end_token_id: int = self._after[-1] if after else self.pad_id
        self.mask_token_id: int = self._mask_token(vocabulary)
        unknown = [] if self._tokenizer.unk_token_id is None else [self._tokenizer.unk_token_id]
        decoder = getattr(getattr(self._tokenizer, "backend_tokenizer", None), "decoder", None)
        of_bytes = type(decoder).__name__ == "ByteLevel"
        pieces = incomplete_characters(vocabulary.items(), of_bytes=of_bytes)
        self.unknown_ids: tuple[int, ...] = tuple(sorted({*unknown, *pieces}))

    def encode(self, text: str, max_words: int) -> Encoded:
        tokens: list[int] = self._ids(self._clean(text))
        return frame_tokens(
            tokens,
            max_words=max_words,
            before=self._before,
            after=self._after,
            marked_after=self._marked_after,
            padding=self.pad_id,
        )

    def _ids(self, text: str) -> list[int]:
        # A text cannot hold a special token: "</s>" in it is read letter by letter. SentencePiece's own table
        # of words has it too, so that telling transformers is not enough.
        for token in self._tokenizer.all_special_tokens:
            if token in text and len(token) > 1:
                text = text.replace(token, f"{token[0]} {token[1:]}")
        encoded = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        ids: list[int] = encoded["input_ids"]
        return ids

    def _special_tokens(self) -> tuple[list[int], list[int]]:
        """The ids that the tokenizer puts before and after every text."""
        inner = self._ids(_SAMPLE)
        whole: list[int] = self._tokenizer(_SAMPLE)["input_ids"]
        for start in range(len(whole) - len(inner) + 1):
            if whole[start : start + len(inner)] == inner:
                return whole[:start], whole[start + len(inner) :]
        return [], []

    def _mask_token(self, vocabulary: dict[str, int]) -> int:
        mask: int | None = self._tokenizer.mask_token_id
        ordinary = set(vocabulary.values()) - set(self.special_ids)
        return max(ordinary) if mask is None else mask


def _load(name: str, *, flag: str, cache_dir: str | None, allow_download: bool) -> Any:
    def load(place: str, local: bool) -> Any:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(place, cache_dir=cache_dir, local_files_only=local)
        # Without a vocabulary some versions of transformers give a tokenizer of the special tokens only.
        if len(tokenizer) <= len(tokenizer.all_special_ids):
            raise FileNotFoundError("no vocabulary")
        return tokenizer

    return load_local_first(
        load,
        name,
        what="tokenizer",
        files=FILES,
        cache_dir=cache_dir,
        allow_download=allow_download,
        flag=flag,
        remedy_flag="--tokenizer",
    )
