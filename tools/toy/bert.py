"""A tiny Chinese BERT with random weights, as a Hugging Face folder, for `--pretrained_text`."""

from __future__ import annotations

import string
from pathlib import Path

from common.atomic_files import write_json, write_text
from tools.toy.captions import used_characters

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCABULARY_SIZE = 256
MAX_POSITIONS = 64


def toy_vocabulary() -> list[str]:
    """Special tokens, every character of the Chinese captions, and fillers up to `VOCABULARY_SIZE`."""
    tokens = list(
        dict.fromkeys((*SPECIAL_TOKENS, *used_characters(), *string.digits, *string.ascii_lowercase))
    )
    assert len(tokens) <= VOCABULARY_SIZE
    return tokens + [f"[unused{i}]" for i in range(VOCABULARY_SIZE - len(tokens))]


def write_toy_bert(folder: Path, *, seed: int) -> None:
    """Write config.json, vocab.txt, tokenizer_config.json and model.safetensors (random, from `seed`).

    It learns from its first steps on. With the weights that BERT's own pre-training starts from, which are
    very small, and with its dropout all texts have nearly the same features for some hundred steps.
    """
    # Slow to import, and needed for this part only.
    import torch
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel

    from engine.checkpoint.files import safetensors_errors

    config = BertConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=256,
        max_position_embeddings=MAX_POSITIONS,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertModel(config)
    weights = model.state_dict()
    for name, weight in weights.items():
        if weight.ndim == 2 and "embeddings" not in name:
            weight *= weight.shape[1] ** -0.5 / config.initializer_range  # variance 1 / inputs
    folder.mkdir(parents=True)
    config.architectures = ["BertModel"]
    config.save_pretrained(folder)
    with safetensors_errors(folder / "model.safetensors"):
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_text(folder / "vocab.txt", "\n".join(toy_vocabulary()) + "\n")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": MAX_POSITIONS}
    settings |= {f"{token.strip('[]').lower()}_token": token for token in SPECIAL_TOKENS}
    write_json(folder / "tokenizer_config.json", settings)
