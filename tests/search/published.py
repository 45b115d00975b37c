"""A small image-text model of random weights in the hub's form, as transformers saves SigLIP 2."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.modules.backbones.toy_tokenizers import write_unigram

WIDTH = 16
_MANY_LANGUAGES = 200_000  # rows of token embeddings from which a model is one of many languages
WORDS = ("▁red", "▁blue", "▁a", "▁dog", "▁rot", "红", "色", "狗")


def write_published(
    folder: Path, *, seed: int = 0, vocabulary: int = _MANY_LANGUAGES, width: int = WIDTH
) -> Path:
    """The folder of such a model, with its tokenizer."""
    from transformers import SiglipConfig, SiglipModel

    small = {"hidden_size": width, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    text = {**small, "vocab_size": vocabulary, "max_position_embeddings": 8, "projection_size": width}
    text |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    vision = {**small, "image_size": 32, "patch_size": 16}
    torch.manual_seed(seed)
    SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    write_unigram(folder, WORDS, kind="siglip")
    return folder
