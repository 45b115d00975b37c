"""How a batch is divided over ranks and passes; whether tokenizer, texts and text model fit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from common.errors import UserError
from engine.config import Config
from engine.config_checks import parse_and_check
from engine.data import batch_per_rank, evaluation_loader, input_spec, inspect_frames, inspect_texts
from engine.distributed.world import World
from tests.dataloaders.test_video_text import dataset
from tests.dataloaders.toy import WordTokenizer, toy_examples, write_bert_vocabulary


def per_rank(batch: int, *, ranks: int, passes: int = 1, examples: int = 1000) -> int:
    argv = ["--do_train", "--output_dir", "out", "--dataset", "msrvtt", "--language", "english"]
    argv += ["--batch_size", str(batch), "--gradient_accumulation_steps", str(passes)]
    config, _ = parse_and_check(argv, program="main_task_retrieval.py")
    return batch_per_rank(config, World(0, ranks, torch.device("cpu")), examples)


def test_the_batch_size_counts_all_ranks_and_passes() -> None:
    assert per_rank(256, ranks=8) == 32
    assert per_rank(256, ranks=8, passes=4) == 8
    assert per_rank(12, ranks=2, passes=3, examples=12) == 2


@pytest.mark.parametrize(
    ("batch", "ranks", "passes", "examples", "message"),
    [
        (3, 4, 1, 1000, "--batch_size 3: cannot be divided by 4 ranks x 1 accumulated passes; give 4"),
        (10, 4, 1, 1000, "--batch_size 10: .*; give 8 or 12"),
        (10, 4, 1, 11, "--batch_size 10: .*; give 8$"),
        (16, 2, 1, 15, "--batch_size 16: larger than the training set of 15 examples; give at most 14"),
        # One step takes all accumulated passes, so their sum must fit too.
        (8, 1, 4, 6, "--batch_size 8: larger than the training set of 6 examples; give at most 4"),
        (8, 8, 1, 5, "training set of 5 examples is too small for 8 ranks"),
    ],
)
def test_an_impossible_batch_size_is_refused_with_the_nearest_legal_ones(
    batch: int, ranks: int, passes: int, examples: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        per_rank(batch, ranks=ranks, passes=passes, examples=examples)


def model_with(*, rows: int) -> Any:
    text = SimpleNamespace(vocab_size=rows, context_length=16)
    return SimpleNamespace(
        text_encoder=text, visual_encoder=SimpleNamespace(visual=SimpleNamespace(image_size=32))
    )


def test_a_vocabulary_larger_than_the_embedding_table_is_refused(tmp_path: Path) -> None:
    """Its last ids would end the run at the first text that has one, perhaps after hours."""
    folder = str(write_bert_vocabulary(tmp_path / "bert", list("abcdefg")))  # 5 special tokens and 7 words
    config = Config(language="chinese", pretrained_text=folder)
    assert input_spec(config, model_with(rows=12)).tokenizer.vocab_size == 12
    with pytest.raises(UserError, match=r"--pretrained_text .*bert: .* ids up to 11, but .* has 11 rows"):
        input_spec(config, model_with(rows=11))
    with pytest.raises(UserError, match=r"--clip_model ViT-B-32-quickgelu: .*49407, but .* has 1000 rows"):
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


class Clips(torch.utils.data.Dataset[int]):
    """1,000 clips of 12 frames."""

    def __init__(self, size: int) -> None:
        self.sample_bytes = 12 * 3 * size**2

    def __len__(self) -> int:
        return 1000


@pytest.mark.parametrize(
    ("size", "ranks", "flag", "batch"),
    [
        (224, 1, 3500, 37),  # 444 frames of 0.6 MB; the whole batch would take 25 GB
        (224, 8, 3500, 37),
        (224, 8, 256, 32),  # a smaller batch stays as it is
        (336, 1, 3500, 16),
        (4000, 1, 3500, 1),  # at least one clip
        (0, 1, 3500, 3500),  # texts
    ],
)
def test_frames_of_an_evaluation_batch_have_a_bounded_size(
    size: int, ranks: int, flag: int, batch: int
) -> None:
    argv = ["--do_eval", "--output_dir", "out", "--dataset", "msrvtt", "--language", "english"]
    config, _ = parse_and_check([*argv, "--batch_size_val", str(flag)], program="main_task_retrieval.py")
    clips: Any = Clips(size)
    loader = evaluation_loader(config, World(0, ranks, torch.device("cpu")), clips)
    assert loader.batch_size == batch
    assert not loader.persistent_workers
