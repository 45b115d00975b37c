from __future__ import annotations

import copy
import itertools

import pytest
import torch

from common.errors import UserError
from modules.losses.matching import frame_adjacency_matching
from modules.pretrain_model import PretrainModel
from tests.device import DEVICE
from tests.modules import tiny

LOSSES = ("FAM", "VTM", "FTM", "MLM")
QUEUES = ("queue_v_cross_ng", "queue_title_cross_ng", "queue_frame_cross_ng", "queue_frame_proj_ng")


@pytest.mark.parametrize("chosen", [c for n in range(1, 5) for c in itertools.combinations(LOSSES, n)])
def test_any_choice_of_losses_trains_all_that_is_trainable(chosen: tuple[str, ...]) -> None:
    model = tiny.pretrain_model(**{**tiny.NO_LOSS, **{f"weight_{name}": 0.5 for name in chosen}})
    losses = model(tiny.batch(padded=True))
    losses["loss"].backward()
    assert set(losses) == {"loss", *chosen}
    assert torch.allclose(losses["loss"], 0.5 * sum(losses[name] for name in chosen))
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == set(tiny.gradients(model))
    assert trainable, "something learns"
    names = set(model.state_dict())
    assert any(name.startswith("cls.") for name in names) == ("MLM" in chosen)
    assert any(name.startswith("v_predictor.") for name in names) == ("FAM" in chosen)


def test_no_loss_at_all_is_refused() -> None:
    with pytest.raises(UserError, match="every loss has weight 0"):
        tiny.pretrain_model(**{**tiny.NO_LOSS, "weight_FTM": 0.5}, use_frame_fea=False)


def test_without_frame_features_there_is_no_frame_loss() -> None:
    model = tiny.pretrain_model(use_frame_fea=False)
    assert "FTM" not in model(tiny.batch())
    assert "queue_frame_cross_ng" not in model.state_dict()


def test_losses_of_tags_and_titles_are_averaged_and_tags_have_a_queue() -> None:
    model, batch = tiny.pretrain_model(), tiny.batch(tags=True)
    before = model.get_buffer("queue_tag_cross_ng").clone()
    model(batch)
    changed = (model.get_buffer("queue_tag_cross_ng") != before).any(dim=0)
    assert changed.tolist() == [True] * 4 + [False] * 2

    model = tiny.pretrain_model().eval()  # eval mode does not change momentum encoders and queues
    model.queue_tag_cross_ng = model.get_buffer("queue_title_cross_ng").clone()
    as_title = {**batch, **{f"text_{k}": batch[f"tag_{k}"] for k in ("ids", "mask", "mlm_ids", "mlm_labels")}}
    title, tag, both = (
        model(b)
        for b in (
            {k: v for k, v in batch.items() if "tag" not in k},
            {k: v for k, v in as_title.items() if "tag" not in k},
            batch,
        )
    )
    for name in ("VTM", "FTM", "MLM"):
        assert torch.allclose(both[name], (title[name] + tag[name]) / 2), name


def test_keys_are_computed_after_the_momentum_update_and_pushed_after_the_losses() -> None:
    model, batch = tiny.pretrain_model(momentum=0.5), tiny.batch()
    query = {name: p.clone() for name, p in model.visual_encoder.named_parameters()}
    key = {name: p.clone() for name, p in model.visual_encoder_k.named_parameters()}
    queue = model.get_buffer("queue_v_cross_ng").clone()
    model(batch)
    for name, parameter in model.visual_encoder_k.named_parameters():
        assert torch.allclose(parameter, 0.5 * key[name] + 0.5 * query[name], atol=1e-6), name
    with torch.no_grad():
        keys, _ = model.visual_encoder_k(batch["frames"])
    written = model.get_buffer("queue_v_cross_ng")
    assert torch.allclose(written[:, :4], torch.nn.functional.normalize(keys, dim=1).T, atol=1e-6)
    assert torch.equal(written[:, 4:], queue[:, 4:])
    assert model.get_buffer("queue_ptr").tolist() == [4]
    model(batch)
    assert model.get_buffer("queue_ptr").tolist() == [2]  # 8 modulo 6


def test_momentum_encoders_have_no_gradient_and_follow_the_dropout_mode() -> None:
    model = tiny.pretrain_model()
    keys = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert keys and all("_k." in name for name in keys)
    model(tiny.batch())["loss"].backward()
    assert not any("_k." in name for name in tiny.gradients(model))
    assert model.text_encoder_k.training and not model.eval().text_encoder_k.training


def test_eval_changes_nothing() -> None:
    model = tiny.pretrain_model().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(tiny.batch())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_padding_does_not_matter_and_is_never_a_negative() -> None:
    batch = tiny.batch(padded=True)
    hidden = ~batch["frame_mask"][:, :, None, None, None]
    changed = {**batch, "frames": torch.where(hidden, 255 - batch["frames"], batch["frames"])}
    model, other = tiny.pretrain_model(), tiny.pretrain_model()
    other.load_state_dict(model.state_dict())
    for _ in range(2):  # in the second step the keys of the first are in the queues
        assert torch.equal(model(batch)["loss"], other(changed)["loss"])
    for name in QUEUES:
        assert torch.equal(model.get_buffer(name), other.get_buffer(name)), name
    for name in ("queue_frame_cross_ng", "queue_frame_proj_ng"):
        written = model.get_buffer(name).view(32, 6, tiny.FRAMES)
        newest = written[:, [4, 5, 0, 1]].norm(dim=0)
        assert torch.allclose(newest, batch["frame_mask"].float(), atol=1e-6)


def test_a_mask_of_ones_is_no_mask() -> None:
    batch = tiny.batch()
    model, other = tiny.pretrain_model(), tiny.pretrain_model()
    other.load_state_dict(model.state_dict())
    losses, unmasked = model(batch), other({k: v for k, v in batch.items() if k != "frame_mask"})
    for name in losses:
        assert torch.allclose(losses[name], unmasked[name], rtol=1e-5), name


def test_a_batch_without_masked_words_gives_zero_and_a_finite_step() -> None:
    model, batch = tiny.pretrain_model(), tiny.batch()
    batch["text_mlm_labels"].fill_(-100)
    losses = model(batch)
    losses["loss"].backward()
    assert losses["MLM"].item() == 0.0 and torch.isfinite(losses["loss"])
    gradients = tiny.gradients(model)
    assert all(not gradients[name].any() for name in gradients if name.startswith("cls."))
    assert {name for name, p in model.named_parameters() if p.requires_grad} == set(gradients)


def test_black_clips_and_empty_texts_stay_finite_over_steps() -> None:
    model, batch = tiny.pretrain_model(), tiny.batch()
    batch["frames"][1] = 0
    batch["text_ids"][2] = 0
    for _ in range(3):
        model.zero_grad()
        loss = model(batch)["loss"]
        loss.backward()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(gradient).all() for gradient in tiny.gradients(model).values())


def test_a_saved_state_continues_with_the_same_numbers() -> None:
    first, batch = tiny.pretrain_model(), tiny.batch(padded=True)
    first(batch)
    second: PretrainModel = tiny.pretrain_model()
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(batch)["loss"], second(batch)["loss"])


def test_bfloat16_autocast_stays_near_float32_and_its_gradients_finite() -> None:
    model, other, batch = tiny.pretrain_model(), tiny.pretrain_model(), tiny.batch(padded=True)
    other.load_state_dict(model.state_dict())
    exact = model(batch)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        losses = other(batch)
    losses["loss"].backward()
    for name, value in losses.items():
        assert value.dtype == torch.float32, name
        assert value.item() == pytest.approx(exact[name].item(), rel=0.05), name
    assert all(torch.isfinite(gradient).all() for gradient in tiny.gradients(other).values())
    assert {other.get_buffer(name).dtype for name in QUEUES} == {torch.float32}


def test_batch_statistics_are_those_of_real_frames() -> None:
    model, batch = tiny.pretrain_model(), tiny.batch(padded=True)
    alone = copy.deepcopy(model.v_projector)
    with torch.no_grad():
        _, frames = model.encode_video(batch["frames"], batch["frame_mask"])
        alone(frames[batch["frame_mask"]])
    model(batch)
    for name, expected in alone.named_buffers():
        assert torch.allclose(model.v_projector.get_buffer(name), expected, atol=1e-6), name


def test_a_clip_that_is_not_finite_affects_only_its_own_step() -> None:
    model = tiny.pretrain_model()
    bad = tiny.batch(4)
    bad["frames"] = bad["frames"].float() / 255
    bad["frames"][1, 0, 0, 0, 0] = torch.nan
    assert not torch.isfinite(model(bad)["loss"])
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    losses = model(tiny.batch(4, seed=2))
    losses["loss"].backward()
    assert torch.isfinite(losses["loss"])
    assert all(torch.isfinite(gradient).all() for gradient in tiny.gradients(model).values())


def test_logged_scalars_continue_after_resuming() -> None:
    model, resumed = tiny.pretrain_model(), tiny.pretrain_model()  # a queue of 6
    assert model.log_scalars() == {
        "logit_scale": pytest.approx(1 / 0.07),
        "queue_age": 0.0,
        "queue_filled": 0.0,
    }
    for seed in (1, 2, 3):
        model(tiny.batch(4, seed=seed))
    assert model.log_scalars()["queue_age"] == 2.0 and model.log_scalars()["queue_filled"] == 1.0
    assert model.extra_state() == {"queue_pushes": 3, "queue_clips": 12}
    resumed.load_extra_state(model.extra_state())
    assert resumed.log_scalars() == model.log_scalars()


def test_published_settings() -> None:
    model = PretrainModel(*tiny.encoders(), max_frames=3, use_frame_fea=True)
    assert model.weights == {"FAM": 0.05, "VTM": 0.45, "FTM": 0.45, "MLM": 0.05}
    assert (model.momentum, model.temperature) == (0.99, 0.07)
    assert not model.in_batch_negatives and not model.mask_duplicates
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    assert [shapes[name][1] for name in QUEUES] == [1024, 1024, 3 * 1024, 3 * 1024]
    for part in ("v_projector", "v_predictor"):
        linears = {n: shape for n, shape in shapes.items() if n.startswith(f"{part}.lin") and len(shape) == 2}
        assert list(linears.values()) == [[4096, 32], [32, 4096]], part


def test_the_number_of_layers_and_the_width_of_projector_and_predictor() -> None:
    model = tiny.pretrain_model(projector_width=12, projector_layers=1, predictor_layers=3)
    shapes = [
        [list(p.shape) for p in part.parameters() if p.dim() == 2]
        for part in (model.v_projector, model.v_predictor)
    ]
    assert shapes == [[[32, 32]], [[12, 32], [12, 12], [32, 12]]]


@pytest.mark.parametrize("in_batch", [False, True])
def test_features_of_padding_count_nowhere_in_the_losses_and_the_queues(in_batch: bool) -> None:
    """Encoders give zeros there; the losses do not depend on it."""
    model = tiny.pretrain_model(in_batch_negatives=in_batch)
    batch = tiny.batch(padded=True)
    padding = ~batch["frame_mask"].to(DEVICE).unsqueeze(-1)
    with torch.no_grad():
        features, keys = model.encode(batch), model.encode_keys(batch)

    def losses(filled: bool, given: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], PretrainModel]:
        other = copy.deepcopy(model)
        fill = [
            {**all_of, "frames": torch.where(padding, torch.randn_like(all_of["frames"]), all_of["frames"])}
            if filled
            else all_of
            for all_of in (features, keys)
        ]
        return other.losses(*fill, given), other

    expected, first = losses(False, batch)
    filled, second = losses(True, batch)
    unmasked, _ = losses(False, {name: value for name, value in batch.items() if name != "frame_mask"})
    for name in LOSSES:
        torch.testing.assert_close(filled[name], expected[name], rtol=1e-6, atol=1e-6, msg=name)
        assert bool(torch.isclose(unmasked[name], expected[name])) == (name in ("VTM", "MLM")), name
    for name in QUEUES:
        torch.testing.assert_close(second.get_buffer(name), first.get_buffer(name), rtol=1e-6, atol=1e-6)


def test_pairs_with_padding_are_not_neighbours() -> None:
    model, batch = tiny.pretrain_model(), tiny.batch(padded=True)
    mask = batch["frame_mask"]
    with torch.no_grad():
        features, keys = model.encode(batch), model.encode_keys(batch)
        expected = frame_adjacency_matching(
            model._predict(features["frames"], mask),
            model._project_keys(keys["frames"], mask),
            queue=model.queue.snapshot("queue_frame_proj_ng"),
            temperature=model.temperature,
            frame_mask=mask.to(DEVICE),
        )
        torch.testing.assert_close(model.losses(features, keys, batch)["FAM"], expected)


@pytest.mark.parametrize("in_batch", [False, True])
def test_negatives_are_those_of_the_queue_or_of_the_batch(in_batch: bool) -> None:
    model, batch = tiny.pretrain_model(in_batch_negatives=in_batch), tiny.batch()
    other = copy.deepcopy(model)
    for name in QUEUES:
        other.get_buffer(name).neg_()
    one, two = model(batch), other(batch)
    for name in ("FAM", "VTM", "FTM"):
        assert torch.equal(one[name], two[name]) == in_batch, name


class Masks(torch.nn.Module):
    """A text encoder that notes the ids and masks that it gets."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.seen.append((ids, mask))
        words: tuple[torch.Tensor, torch.Tensor] = self.encoder(ids, mask)
        return words


def test_text_encoders_get_ids_with_their_masks() -> None:
    model, batch = tiny.pretrain_model(), tiny.batch(tags=True)
    batch["tag_mask"] = batch["tag_mask"].clone()
    batch["tag_mask"][:, -1] = 0
    query, key = Masks(model.text_encoder), Masks(model.text_encoder_k)
    model.text_encoder, model.text_encoder_k = query, key
    model.encode(batch)
    model.encode_keys(batch)
    for encoder, names in ((query, ("text", "tag", "text_mlm", "tag_mlm")), (key, ("text", "tag"))):
        expected = [(batch[f"{name}_ids"], batch[f"{name.removesuffix('_mlm')}_mask"]) for name in names]
        assert len(encoder.seen) == len(expected)
        for (ids, mask), (wanted_ids, wanted_mask) in zip(encoder.seen, expected, strict=True):
            assert torch.equal(ids, wanted_ids) and torch.equal(mask, wanted_mask)


def test_masked_words_alone_train_the_text_encoder() -> None:
    model = tiny.pretrain_model(**{**tiny.NO_LOSS, "weight_MLM": 0.5})
    assert all(parameter.requires_grad for parameter in model.text_encoder.parameters())
    assert not any(parameter.requires_grad for parameter in model.visual_encoder.parameters())
