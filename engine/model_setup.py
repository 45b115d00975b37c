"""Build the model of a Config on the CPU in float32, with the weights of CLIP or of a checkpoint."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from torch import nn

from common.errors import UserError
from common.languages import BILINGUAL, languages_of
from engine.checkpoint.files import read_state
from engine.checkpoint.weights import HEAD_GROUP, LoadReport, group_of, load_state, text_languages
from engine.config import Config
from modules.adapters import TOWERS, add_adapters
from modules.backbones.backbone import Backbone
from modules.backbones.registry import build_backbone, with_bert, with_bert_beside
from modules.backbones.request import Request
from modules.dual_encoder import DualEncoder
from modules.freezing import freeze, nothing_learns
from modules.grad_checkpointing import checkpoint_activations
from modules.heads.head import HeadOptions, SimilarityHead
from modules.heads.registry import build_head, head_of_state
from modules.logits import logits_for
from modules.losses.table import make_loss
from modules.positions import FRAME_POSITIONS, TEXT_POSITIONS_KEPT
from modules.pretrain_model import PretrainModel
from modules.retrieval_model import RetrievalModel
from modules.text_length import extend_context
from modules.video_encoder import VideoEncoder


class MessageLog(Protocol):
    """Where the report on loaded weights goes: a `RunLog`, or a logger of Python."""

    def info(self, message: str, /) -> None: ...

    def warning(self, message: str, /) -> None: ...


def request_of(config: Config, *, pretrained: bool = True) -> Request:
    """What `build_backbone` needs to know of a run's settings."""
    return Request(
        config.clip_model,
        config.clip_weights,
        pretrained=pretrained,
        tokenizer=config.tokenizer or None,
        image_size=config.image_size,
        patch_dropout=config.patch_dropout,
        cache_dir=config.cache_dir or None,
    )


def build_model(config: Config, log: MessageLog, backbone: Backbone | None = None) -> DualEncoder:
    """The model of this run, on a `backbone` that is built already or on that of the settings.

    Raises `UserError` naming the weights that are absent or do not fit.
    """
    # A checkpoint holds every encoder weight or is refused, so the pre-trained weights are not needed then.
    pretrained = config.init_model is None
    to_start = _languages_to_start(config)
    cache_dir = config.cache_dir or None
    if backbone is None:
        backbone = build_backbone(request_of(config, pretrained=pretrained or "english" in to_start))
    head = build_head(HeadOptions.of(vars(config)), backbone.embed_dim)
    visual = VideoEncoder(
        backbone.image,
        embed_dim=backbone.embed_dim,
        attended_frames=head.attended_frames,
        use_temp=bool(config.use_temp),
        temporal_layers=config.temporal_layers,
        max_positions=max(FRAME_POSITIONS, config.max_frames),
        position_std=backbone.frame_position_std,
        preprocessing=backbone.preprocessing,
    )
    if uses_bert(config, backbone):
        beside = config.language == BILINGUAL and config.text_tower == "auto"
        backbone = (with_bert_beside if beside else with_bert)(
            backbone,
            config.pretrained_text,
            pretrained=pretrained or "chinese" in to_start,
            legacy_special_tokens=config.legacy_special_tokens,
            cache_dir=cache_dir,
        )
    unknown = [each for each in languages_of(config.language) if each not in backbone.languages]
    if unknown:
        log.warning(
            f"--language {config.language}: the text encoder of {backbone.text_name} was not trained with "
            f"{' and '.join(map(str.capitalize, unknown))} texts"
        )
    backbone = _with_long_texts(config, backbone, log)
    if config.use_temp and config.max_frames > FRAME_POSITIONS:
        log.info(
            f"--max_frames {config.max_frames}: the temporal transformer has as many positions, in place of "
            f"{FRAME_POSITIONS}"
        )
    model = _assemble(config, visual, backbone, head)
    model.backbone = backbone
    if config.init_model is not None:
        load_checkpoint(config, model, Path(config.init_model).expanduser(), log, may_lack=to_start)
    for language in to_start if backbone.by_language else ():
        flag = "--clip_weights" if language == "english" else "--pretrained_text"
        log.info(
            f"{config.init_model}: has no {language.capitalize()} text encoder; it starts from {flag} "
            f"{getattr(config, flag[2:])}"
        )
    _prepare_for_training(config, model, log)
    return model


def _with_long_texts(config: Config, backbone: Backbone, log: MessageLog) -> Backbone:
    """`backbone` with as many positions of tokens as --max_words needs."""
    words, limit = config.max_words or 0, backbone.context_length
    if words <= limit:
        return backbone
    longer = extend_context(backbone, words)
    log.info(
        f"--max_words {words}: the text encoder was trained with {limit} tokens; the first "
        f"{TEXT_POSITIONS_KEPT} positions stay, the others are interpolated"
    )
    return longer


def _languages_to_start(config: Config) -> list[str]:
    """The languages of a bilingual training whose text encoder starts from pre-trained weights, because
    --init_model is a checkpoint of the other language.
    """
    if config.language != BILINGUAL or config.init_model is None or not config.is_training:
        return []
    path = Path(config.init_model).expanduser()
    present = text_languages(read_state(path, verify=False))  # verified when it is loaded
    return [language for language in languages_of(config.language) if present and language not in present]


def load_checkpoint(
    config: Config, model: DualEncoder, path: Path, log: MessageLog, *, may_lack: Collection[str] = ()
) -> None:
    """Load the file `path` into `model` and log what was loaded. `may_lack`: as in `load_state`.

    Raises `UserError` where the file does not fit. For evaluation and search it must not hold a temporal
    transformer that the model lacks, unless a flag switches it off.
    """
    # The checksums of a state to resume from are verified where it is chosen.
    state = read_state(path, verify=config.resume is None)
    report = load_state(model, state, path=str(path), may_lack=may_lack)
    if not config.is_training and config.use_temp is None and report.without_temporal:
        raise UserError(
            f"checkpoint {path}: has a temporal transformer, which this model lacks: give --use_temp, or "
            "--no-use_temp to leave that part out"
        )
    if not config.is_training and not config.allow_other_head:
        _refuse_other_head(config.head, report, head_of_state(state))
    for line in report.lines():
        log.info(line)
    for line in report.warnings():
        log.warning(line)


def _refuse_other_head(head: str, report: LoadReport, in_file: str | None) -> None:
    """Raise `UserError` where the weights of the head are not those of the model's head."""
    differing = (*report.missing, *report.misshapen, *report.left_out)
    if not any(group_of(name) == HEAD_GROUP for name in differing):
        return
    if in_file == head:
        problem, remedy = f"has a head {head} of other layers", "give the --wti_layers of its training"
    elif in_file is None:
        problem, remedy = f"has no weights of --head {head}", "give the --head of its training"
    else:
        problem, remedy = f"was trained with --head {in_file}, not {head}", f"give --head {in_file}"
    raise UserError(f"checkpoint {report.path}: {problem}: {remedy}, or add --allow_other_head")


def _prepare_for_training(config: Config, model: DualEncoder, log: MessageLog) -> None:
    """Apply --freeze, --lora, --grad_checkpointing. Raises `UserError` where the model does not fit them."""
    for entry in filter(None, config.freeze.split(",")):
        part, _, layers = entry.strip().partition(":")
        freeze(model, part, int(layers) if layers else None)
    if config.lora and config.is_training:
        towers = TOWERS if config.lora_on == "both" else (config.lora_on,)
        count = add_adapters(model, rank=config.lora, towers=towers)
        log.info(f"--lora {config.lora}: {count} adapters on {' and '.join(towers)}; both towers are frozen")
    if config.is_training and nothing_learns(model.parameters()):
        raise UserError(f"--freeze {config.freeze}: leaves nothing to train")
    if config.grad_checkpointing:
        checkpoint_activations(model)


def uses_bert(config: Config, backbone: Backbone) -> bool:
    """Whether the text encoder, at least for Chinese, is that of --pretrained_text (--text_tower)."""
    if config.text_tower == "auto":
        return "chinese" in set(languages_of(config.language)) - backbone.languages
    return config.text_tower == "bert"


def _assemble(config: Config, visual: nn.Module, backbone: Backbone, head: SimilarityHead) -> DualEncoder:
    text = backbone.text
    if config.do_pretrain:
        return PretrainModel(
            visual,
            text,
            use_frame_fea=config.use_frame_fea,
            head=head,
            weight_FAM=config.weight_FAM,
            weight_VTM=config.weight_VTM,
            weight_FTM=config.weight_FTM,
            weight_MLM=config.weight_MLM,
            queue_size=config.contrast_num_negative,
            max_frames=config.max_frames,
            momentum=config.contrast_momentum,
            temperature=config.contrast_temperature,
            projector_layers=config.projector_layers,
            predictor_layers=config.projector_layers,
            in_batch_negatives=config.negatives == "batch",
            mask_duplicates=config.mask_duplicates,
        )
    loss = make_loss(config.loss, hard_negatives=config.hard_negatives)
    return RetrievalModel(
        visual,
        text,
        use_frame_fea=config.use_frame_fea,
        head=head,
        weight_VTM=config.weight_VTM_finetune if config.head == "hmmc" else 1.0,
        weight_FTM=config.weight_FTM_finetune,
        loss=loss,
        logits=logits_for(
            loss, scale=backbone.logit_scale, bias=backbone.logit_bias, learn=config.learn_logit_scale
        ),
        mask_duplicates=config.mask_duplicates,
    )
