"""This project gives the numbers of the published code."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from tests.golden import comparison, recipe


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def assert_all_within(differences: Iterable[comparison.Difference], *, count: int) -> None:
    rows = list(differences)
    assert len(rows) == count
    assert [row for row in rows if not row.value <= row.tolerance] == []


@pytest.mark.parametrize("language", recipe.LANGUAGES)
def test_finetuning_features_similarities_and_losses(language: str, tmp_path: Path) -> None:
    assert_all_within(comparison.finetune_forward(language, tmp_path), count=8)


@pytest.mark.parametrize("language", recipe.LANGUAGES)
def test_finetuning_gradient_norm_of_every_parameter(language: str, tmp_path: Path) -> None:
    assert_all_within(comparison.finetune_gradients(language, tmp_path), count=1)


@pytest.mark.parametrize("language", recipe.LANGUAGES)
def test_six_optimiser_steps(language: str, tmp_path: Path) -> None:
    assert_all_within(comparison.finetune_trajectory(language, tmp_path), count=4)


@pytest.mark.parametrize("language", recipe.LANGUAGES)
@pytest.mark.parametrize("dataset", recipe.PRETRAIN_SETS)
def test_pretraining_step_and_the_one_after(language: str, dataset: str, tmp_path: Path) -> None:
    assert_all_within(comparison.pretrain_steps(language, dataset, tmp_path), count=12)


@pytest.mark.parametrize("language", recipe.LANGUAGES)
def test_masked_word_loss(language: str, tmp_path: Path) -> None:
    assert_all_within(comparison.masked_words(language, tmp_path), count=1)


@pytest.mark.parametrize("language", recipe.LANGUAGES)
def test_state_names_and_shapes_are_the_published_ones(language: str, tmp_path: Path) -> None:
    model = recipe.pretrain_model(language, "bird", tmp_path, weight_MLM=0.05)
    ours = {
        name: list(value.shape) for name, value in model.state_dict().items() if "position_ids" not in name
    }
    published = recipe.numbers()[f"{language}/pt/bird/state"]
    in_a_loss = {
        name: shape
        for name, shape in published.items()
        if not name.startswith("t_projector") and "position_ids" not in name
    }
    assert ours == in_a_loss
    finetuned = recipe.retrieval_model(language, tmp_path).state_dict()
    assert {name: list(value.shape) for name, value in finetuned.items()} == {
        name: shape
        for name, shape in recipe.numbers()[f"{language}/ft/state"].items()
        if "position_ids" not in name
    }
