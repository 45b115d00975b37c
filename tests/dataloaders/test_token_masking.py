import numpy as np
import pytest

from dataloaders.token_masking import mask_tokens
from modules.backbones.tokenizers import frame_ids

START, END, MASK, VOCABULARY = 98, 99, 97, 100


def masked(
    length: int, *, seed: int = 0, probability: float = 0.15, words: int = 40
) -> tuple[np.ndarray, ...]:
    ids, mask, _ = frame_ids([50] * length, max_words=words, start=START, end=END)
    new_ids, labels = mask_tokens(
        ids,
        mask,
        rng=np.random.default_rng(seed),
        mask_token_id=MASK,
        vocab_size=VOCABULARY,
        special_ids=(START, END),
        probability=probability,
    )
    return ids, mask, new_ids, labels


@pytest.mark.parametrize("length", [0, 1, 10, 38, 60])
def test_start_end_and_padding_are_never_chosen(length: int) -> None:
    for seed in range(30):
        ids, mask, new_ids, labels = masked(length, seed=seed, probability=1.0)
        last = int(mask.sum()) - 1
        inner = np.zeros(len(ids), bool)
        inner[1:last] = True
        assert (labels[inner] == 50).all() and (labels[~inner] == -100).all()
        assert (new_ids[~inner] == ids[~inner]).all()


def test_shares_of_the_chosen() -> None:
    chosen = hidden = swapped = real = 0
    drawn: set[int] = set()
    for seed in range(2000):
        _, _, new_ids, labels = masked(38, seed=seed)
        at = labels != -100
        real += 38
        chosen += at.sum()
        hidden += (new_ids[at] == MASK).sum()
        others = new_ids[at & (new_ids != MASK) & (new_ids != 50)]
        swapped += len(others)
        drawn.update(others.tolist())
    assert abs(chosen / real - 0.15) < 0.01
    assert abs(hidden / chosen - 0.8) < 0.02
    assert abs(swapped / chosen - 0.1) < 0.02
    assert drawn == set(range(VOCABULARY)) - {START, END, MASK, 50}


def test_nothing_to_choose() -> None:
    for ids, _, new_ids, labels in (masked(38, probability=0.0), masked(0)):
        assert (labels == -100).all() and (new_ids == ids).all()
    ids = np.zeros(4, dtype=np.int64)
    new_ids, labels = mask_tokens(
        ids,
        ids,
        rng=np.random.default_rng(0),
        mask_token_id=4,
        vocab_size=9,
        special_ids=(0,),
        probability=1.0,
    )
    assert (new_ids == 0).all() and (labels == -100).all()


def test_it_follows_the_generator_and_leaves_the_input() -> None:
    ids, _, new_ids, labels = masked(38, seed=4, probability=0.5)
    again = masked(38, seed=4, probability=0.5)
    assert (again[2] == new_ids).all() and (again[3] == labels).all()
    assert (ids[1:39] == 50).all()
    assert new_ids.dtype == labels.dtype == np.int64


def test_special_ids_in_the_middle_of_the_vocabulary_are_skipped() -> None:
    """BERT's special ids are 0 and 100 to 103."""
    ids, mask, _ = frame_ids([7] * 30, max_words=32, start=101, end=102)
    seen: set[int] = set()
    for seed in range(300):
        new_ids, _ = mask_tokens(
            ids,
            mask,
            rng=np.random.default_rng(seed),
            mask_token_id=103,
            vocab_size=110,
            special_ids=(0, 100, 101, 102, 103),
            probability=1.0,
        )
        seen.update(new_ids[1:-1].tolist())
    assert seen == set(range(1, 100)) | set(range(103, 110))
