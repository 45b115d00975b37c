"""Small tokenizers of transformers, made here: SentencePiece's kind and GPT-2's bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

# The kinds: special tokens, what stands around a text, and the padding.
KINDS = {
    "xlm-r": (("<s>", "<pad>", "</s>", "<unk>"), "<s> $A </s>", "<pad>"),
    "siglip": (("<pad>", "</s>", "<unk>"), "$A </s>", "</s>"),
    "gemma": (("<pad>", "<eos>", "<bos>", "<unk>"), "$A <eos>", "<pad>"),
}


def write_unigram(folder: Path, words: Sequence[str], *, kind: str = "xlm-r") -> str:
    """A SentencePiece tokenizer that knows `words` and single spaces; other letters are unknown."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    specials, template, padding = KINDS[kind]
    vocabulary = [(token, 0.0) for token in specials] + [("▁", -9.0)]
    vocabulary += [(word, -1.0 - 0.001 * number) for number, word in enumerate(words)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=specials.index("<unk>")))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    around = [(token, specials.index(token)) for token in template.split() if token != "$A"]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=around)
    settings = {"pad_token": padding, "unk_token": "<unk>", "eos_token": around[-1][0]}
    settings |= {"bos_token": around[0][0]} if len(around) > 1 else {}
    return _write(folder, tokenizer, settings)


def write_bytes(folder: Path) -> str:
    """A tokenizer of single bytes, as GPT-2's and RoBERTa's without merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<pad>", "<s>", "</s>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _write(folder, tokenizer, {"pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>"})


def _write(folder: Path, tokenizer: object, settings: dict[str, str]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))  # type: ignore[attr-defined]
    whole = {"tokenizer_class": "PreTrainedTokenizerFast", **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(whole), encoding="utf-8")
    return str(folder)
