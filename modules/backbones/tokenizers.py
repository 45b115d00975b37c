"""Captions -> token ids: CLIP's English tokenizer and Chinese ones from transformers (METHOD 2). W words.

A caption's own text never becomes a special token: "[SEP]" or "<end_of_text>" in it are read letter by
letter.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PADDING = 0
HUB_TIMEOUT = 10.0  # seconds
Encoded = tuple[NDArray[np.int64], NDArray[np.int64], bool]


class ClipTokenizer:
    """The byte-pair tokenizer of CLIP, from open_clip, which ships its vocabulary.

    Raises ImportError when ftfy or open_clip is absent: without ftfy accented letters would get other ids.
    """

    start_token_id = 49406
    end_token_id = 49407
    # CLIP's vocabulary has no mask token; this rare word serves (METHOD 4).
    mask_token_id = 49394
    special_ids: tuple[int, ...] = (49406, 49407)
    vocab_size = 49408

    def __init__(self) -> None:
        self._bpe = _plain_text_bpe()
        assert self._bpe.vocab_size == self.vocab_size

    def encode(self, text: str, max_words: int) -> Encoded:
        return frame_ids(
            self._bpe.encode(text), max_words=max_words, start=self.start_token_id, end=self.end_token_id
        )


class ChineseTokenizer:
    """The tokenizer of a BERT-class encoder, by its name on the Hugging Face hub or a folder that holds it.

    The local cache (`cache_dir`, or the hub's default) is tried before any network; `allow_download=False`
    forbids the network. `legacy_special_tokens` frames texts with [UNK] instead of [CLS] and [SEP], as in the
    published VATEX-Chinese model (METHOD 8). Raises ValueError saying what to fetch, and where to put it.
    """

    def __init__(
        self,
        name_or_folder: str,
        *,
        legacy_special_tokens: bool = False,
        cache_dir: str | None = None,
        allow_download: bool = True,
    ) -> None:
        # Workers are forked after use; the library would warn in each, and then do just this.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._tokenizer = _load_pretrained(name_or_folder, cache_dir=cache_dir, allow_download=allow_download)
        unknown = self._tokenizer.unk_token_id
        self.start_token_id: int = unknown if legacy_special_tokens else self._tokenizer.cls_token_id
        self.end_token_id: int = unknown if legacy_special_tokens else self._tokenizer.sep_token_id
        self.mask_token_id: int = self._tokenizer.mask_token_id
        self.special_ids: tuple[int, ...] = tuple(sorted(self._tokenizer.all_special_ids))
        self.vocab_size: int = len(self._tokenizer)

    def encode(self, text: str, max_words: int) -> Encoded:
        tokens = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        return frame_ids(
            tokens["input_ids"], max_words=max_words, start=self.start_token_id, end=self.end_token_id
        )


def frame_ids(tokens: list[int], *, max_words: int, start: int, end: int) -> Encoded:
    """Start, tokens cut to W - 2, end, zeros to W; the mask; whether something was cut."""
    assert max_words >= 2, "start and end need two places"
    kept = [start, *tokens[: max_words - 2], end]
    ids = np.full(max_words, PADDING, dtype=np.int64)
    ids[: len(kept)] = kept
    mask = np.zeros(max_words, dtype=np.int64)
    mask[: len(kept)] = 1
    return ids, mask, len(tokens) > max_words - 2


def _plain_text_bpe() -> Any:
    """open_clip's tokenizer, no longer knowing its two special tokens when it reads text."""
    try:
        import ftfy  # noqa: F401
        import regex
        from open_clip.tokenizer import SimpleTokenizer
    except ImportError as error:
        raise ImportError(
            f"CLIP's tokenizer needs the package {error.name}: pip install -r requirements.txt"
        ) from error
    bpe = SimpleTokenizer()
    bpe.cache.clear()
    # CLIP's rule for words: contractions, letters, single digits, runs of anything else.
    bpe.pat = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.IGNORECASE)
    return bpe


def _load_pretrained(name: str, *, cache_dir: str | None, allow_download: bool) -> Any:
    from transformers import AutoTokenizer

    folder = _local_folder(name, cache_dir)
    if folder is None and not (allow_download and not Path(name).exists() and _hub_has(name)):
        raise ValueError(_not_found(name, cache_dir))
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder or name, cache_dir=cache_dir, local_files_only=folder is not None
        )
    except (OSError, ValueError) as error:
        raise ValueError(_not_found(name, cache_dir)) from error
    # A folder without a vocabulary gives, in some versions, a tokenizer of the special tokens only.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ValueError(_not_found(name, cache_dir))
    for token in ("cls_token", "sep_token", "mask_token", "unk_token"):
        if getattr(tokenizer, token) is None:
            raise ValueError(
                f"--pretrained_text {name}: its tokenizer has no {token}, a BERT-class one is needed"
            )
    return tokenizer


def _local_folder(name: str, cache_dir: str | None) -> str | None:
    """The folder `name`, or the one that an earlier download left in the hub's cache.

    The cache is looked at directly: the hub's client opens connections even for local files only.
    """
    if Path(name).is_dir():
        return name
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for file in ("vocab.txt", "tokenizer.json"):
        try:
            found = try_to_load_from_cache(name, file, cache_dir=cache_dir)
        except HFValidationError:  # a path, not the name of a model
            return None
        if isinstance(found, str):
            return str(Path(found).parent)
    return None


def _hub_has(name: str) -> bool:
    """Whether the hub answers and knows the model.

    Asked first because the client retries a download: without network it would take most of a minute to fail.
    """
    from huggingface_hub import model_info

    try:
        model_info(name, timeout=HUB_TIMEOUT)
    except Exception:  # the client raises many kinds, none of them a contract
        return False
    return True


def _not_found(name: str, cache_dir: str | None) -> str:
    if Path(name).is_dir():
        return (
            f"--pretrained_text {name}: the folder holds no readable tokenizer (vocab.txt or tokenizer.json)"
        )
    cache = cache_dir or "the Hugging Face cache"
    return (
        f"--pretrained_text {name}: no such folder, and no tokenizer of that name in {cache} or on the"
        " network; fetch vocab.txt, tokenizer_config.json, config.json and the weights of that model into a"
        " folder and name the folder"
    )
