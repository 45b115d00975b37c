"""Every loss of the table against sums over pairs that follow its formula, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.config import Config
from modules.logits import logits_for
from modules.losses import sigmoid
from modules.losses.batch_loss import BatchLoss
from modules.losses.table import LOSSES, WEIGHT_NEGATIVES, make_loss
from tests.modules.hmmc_terms import frame_text_matching, video_text_matching
from tests.modules.tiny import draw

GOLDEN = Path(__file__).parents[2] / "golden" / "heads" / "siglip.npz"
FRAMES, N = 3, 5
LOGITS = 4 * draw(FRAMES, N, N).double()
EXCLUDED = torch.zeros(N, N, dtype=torch.bool)
EXCLUDED[0, 3] = EXCLUDED[3, 0] = EXCLUDED[1, 2] = EXCLUDED[2, 1] = True
REAL = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 1, 1], [0, 1, 0, 1, 0]], dtype=torch.bool)
CASES = {
    name: (kind, beta)
    for name, kind, beta in [
        *((kind, kind, 0.0) for kind in LOSSES),
        *((f"{kind}, hard negatives", kind, 0.7) for kind in WEIGHT_NEGATIVES),
    ]
}


def negatives_of_text(excluded: Tensor, real: Tensor, i: int) -> list[int]:
    return [j for j in range(N) if j != i and not excluded[i, j] and real[j]]


def direction(positive: float, negatives: list[float], beta: float) -> float:
    """log(1 + sum of w exp(l - p)), weights with mean 1."""
    total = sum(math.exp(beta * other) for other in negatives)
    weights = [len(negatives) * math.exp(beta * other) / total for other in negatives]
    return math.log1p(
        sum(w * math.exp(other - positive) for w, other in zip(weights, negatives, strict=True))
    )


def softmax_of(logits: Tensor, excluded: Tensor, real: Tensor, beta: float) -> list[float]:
    terms = []
    for i in range(N):
        if real[i]:
            rows = [float(logits[i, j]) for j in negatives_of_text(excluded, real, i)]
            columns = [float(logits[j, i]) for j in range(N) if j != i and not excluded[j, i]]
            positive = float(logits[i, i])
            terms.append(direction(positive, rows, beta) + direction(positive, columns, beta))
    return terms


def sigmoid_of(logits: Tensor, excluded: Tensor, real: Tensor, beta: float) -> list[float]:
    """One term a clip: its column of pairs."""
    terms = []
    for j in range(N):
        if real[j]:
            column = [i for i in range(N) if not excluded[i, j]]
            signs = [1 if i == j else -1 for i in column]
            pairs = zip(signs, column, strict=True)
            terms.append(sum(math.log1p(math.exp(-z * float(logits[i, j]))) for z, i in pairs))
    return terms


ORACLES: dict[str, Callable[[Tensor, Tensor, Tensor, float], list[float]]] = {
    "softmax": softmax_of,
    "sigmoid": sigmoid_of,
}


def make(case: str) -> BatchLoss:
    kind, beta = CASES[case]
    return make_loss(kind, hard_negatives=beta)


def test_every_loss_of_the_table_has_an_oracle_here() -> None:
    assert set(ORACLES) == set(LOSSES)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_a_loss_is_the_mean_of_its_terms(case: str, masked: bool) -> None:
    kind, beta = CASES[case]
    excluded = EXCLUDED if masked else torch.zeros_like(EXCLUDED)
    real = REAL if masked else torch.ones_like(REAL)
    options = {"excluded": EXCLUDED, "real": REAL} if masked else {}
    of_frame = [ORACLES[kind](LOGITS[f], excluded, real[f], beta) for f in range(FRAMES)]
    terms = [term for frame in of_frame for term in frame]
    assert float(make(case)(LOGITS, **options)) == pytest.approx(sum(terms) / len(terms), rel=1e-12)
    of_videos = ORACLES[kind](LOGITS[0], excluded, torch.ones(N), beta)
    found = make(case)(LOGITS[0], excluded=EXCLUDED if masked else None)
    assert float(found) == pytest.approx(sum(of_videos) / N, rel=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_finite_differences(case: str) -> None:
    logits = LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: make(case)(x, excluded=EXCLUDED, real=REAL), logits)
    assert torch.autograd.gradcheck(lambda x: make(case)(x), LOGITS[0].clone().requires_grad_())


@pytest.mark.parametrize("case", CASES)
def test_extreme_logits_give_finite_losses_and_gradients(case: str) -> None:
    logits = (1e4 * draw(N, N)).requires_grad_()
    everything = ~torch.eye(N, dtype=torch.bool)
    for excluded in (None, everything):  # also without any negative
        (gradient,) = torch.autograd.grad(loss := make(case)(logits, excluded=excluded), logits)
        assert torch.isfinite(loss) and torch.isfinite(gradient).all()
    if CASES[case][0] == "softmax":
        assert float(loss.detach()) == 0.0


@pytest.mark.parametrize("case", CASES)
def test_the_chance_loss_is_that_of_equal_logits(case: str) -> None:
    equal = -math.log(N - 1) if CASES[case][0] == "sigmoid" else 3.0
    found = make(case)(torch.full((N, N), equal, dtype=torch.float64))
    assert float(found) == pytest.approx(make(case).chance(N), rel=1e-12)
    assert make(case).chance(1) == 0.0


def test_a_loss_by_rows_is_the_mean_over_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    by_rows = [case for case in CASES if make(case).by_rows]
    assert by_rows == ["sigmoid"]
    whole = make("sigmoid")(LOGITS[:, :4, :4], excluded=EXCLUDED[:4, :4], real=REAL[:, :4])
    monkeypatch.setattr(sigmoid, "world_size", lambda: 2)
    shares = [
        make("sigmoid")(
            LOGITS[:, first : first + 2, :4],
            excluded=EXCLUDED[first : first + 2, :4],
            real=REAL[:, :4],
            first=first,
        )
        for first in (0, 2)
    ]
    assert float(sum(shares)) / 2 == pytest.approx(float(whole), rel=1e-12)
    assert float(shares[0]) != pytest.approx(float(shares[1]))


def test_without_weights_hard_negatives_are_the_published_loss() -> None:
    """0 is exactly equal; small weights tend to it."""
    plain, none = make_loss("softmax")(LOGITS), make_loss("softmax", hard_negatives=0.0)(LOGITS)
    assert torch.equal(plain, none)
    nearly = make_loss("softmax", hard_negatives=1e-6)(LOGITS)
    assert float(nearly) == pytest.approx(float(plain), rel=1e-5) and not torch.equal(nearly, plain)
    assert float(make_loss("softmax", hard_negatives=0.5)(LOGITS)) > float(plain)


def test_sigmoid_golden_values() -> None:
    """Of open_clip's class: loss, logits, and the gradients of features, scale and bias."""
    golden = {name: torch.from_numpy(value).double() for name, value in np.load(GOLDEN).items()}
    text, video = (golden[name].requires_grad_() for name in ("text", "video"))
    loss = make_loss("sigmoid")
    logits = logits_for(loss, scale=1.0).double()
    assert logits.log_scale is not None and logits.bias is not None
    with torch.no_grad():
        logits.log_scale.fill_(math.log(float(golden["a_scale"])))  # its float32 start has fewer digits
    value = video_text_matching(text, video, logit_scale=logits.scale, logit_bias=logits.bias, loss=loss)
    value.backward()
    close = {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(value, golden["a_loss"], **close)
    torch.testing.assert_close(logits(golden["cosines"]), golden["a_logits"], **close)
    torch.testing.assert_close(text.grad, golden["a_grad_text"], **close)
    torch.testing.assert_close(video.grad, golden["a_grad_video"], **close)
    by_log = golden["a_grad_scale"] * golden["a_scale"]
    torch.testing.assert_close(logits.log_scale.grad, by_log.reshape(1), **close)
    torch.testing.assert_close(logits.bias.grad, golden["a_grad_bias"].reshape(1), **close)


def test_softmax_golden_values() -> None:
    """The same file halves the sum of both directions."""
    golden = {name: torch.from_numpy(value).double() for name, value in np.load(GOLDEN).items()}
    text, video = (golden[name].requires_grad_() for name in ("text", "video"))
    value = video_text_matching(text, video, logit_scale=float(golden["softmax_scale"]))
    value.backward()
    torch.testing.assert_close(value, 2 * golden["softmax_loss"], rtol=1e-10, atol=0.0)
    torch.testing.assert_close(text.grad, 2 * golden["softmax_grad_text"], rtol=1e-10, atol=1e-12)


def test_frames_are_scored_as_videos_are() -> None:
    """A clip of one frame has the loss of a video, for every loss."""
    text, video = draw(N, 8).double(), draw(N, 8, seed=1).double()
    for case in CASES:
        options = {"logit_scale": 5.0, "logit_bias": torch.tensor([-1.0]), "loss": make(case)}
        frames = frame_text_matching(text, video.unsqueeze(1), **options)
        assert float(frames) == pytest.approx(float(video_text_matching(text, video, **options)), rel=1e-12)


def test_the_flag_lists_the_table() -> None:
    (field,) = [f for f in Config.__dataclass_fields__.values() if f.name == "loss"]
    assert field.metadata["choices"] == tuple(LOSSES)
