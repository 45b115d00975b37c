"""Check a configuration: settings that cannot work with any data are errors that name the flag."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence

from common.errors import UserError
from common.languages import BILINGUAL, languages_of
from dataloaders.datasets.registry import DATASETS, dataset_spec, require_choice
from engine.command_line import Remark, given_flags, parse_config
from engine.config import Config
from engine.flags import VideoFlags
from engine.saved_settings import as_flag, with_checkpoint_settings
from modules.losses.table import WEIGHT_NEGATIVES

AT_LEAST_ONE = (
    *("epochs", "batch_size", "batch_size_val", "gradient_accumulation_steps", "max_frames", "top_frames"),
    *("n_display", "temporal_layers", "projector_layers", "contrast_num_negative", "keep", "max_bad_steps"),
    *("wti_layers", "xpool_heads"),
)
NOT_NEGATIVE = (
    *("num_thread_reader", "seed", "local_rank", "lr", "text_lr", "coef_lr", "weight_decay"),
    *("grad_cache", "save_steps", "max_bad_samples", "bootstrap", "qb_bank", "hard_negatives", "lora"),
    *("shard_readers", "shuffle_buffer", "max_bad_share"),
)
DECODING = ("num_frames", "short_side", "quality", "video_timeout")  # also of videos in shards
MOST_STORED = 99_999  # frames of a video
HIGH_TOWER_RATE = 9.9e-5  # the highest published rate of the image tower is 8e-5
FREEZABLE = ("image", "text", "temporal")


def parse_and_check(argv: Sequence[str] | None, *, program: str) -> tuple[Config, list[Remark]]:
    """Parse a command line, add the settings beside --init_model, and check all of them.

    Returns the settings of a run and remarks for its log. Raises `UserError` that names the flag and a right
    value; argparse exits with 2 on unknown flags.
    """
    config, remarks = parse_config(argv, program=program)
    given = given_flags(argv, program=program)
    config, more = with_checkpoint_settings(config, given)
    if config.is_training:
        config = dataclasses.replace(config, use_temp=bool(config.use_temp))
    check_config(config, program=program)
    if "pretrained_text" in given and config.language == "english" and config.text_tower != "bert":
        text = (
            f"--pretrained_text {config.pretrained_text} has no effect: --language english uses the text "
            "encoder of --clip_model; a BERT model is for Chinese texts only"
        )
        more = [*more, Remark(text, is_warning=True)]
    return config, [
        *remarks,
        *more,
        *_rate_remarks(config),
        *_loss_remarks(config),
        *_head_remarks(config, given),
    ]


def _rate_remarks(config: Config) -> list[Remark]:
    """A warning if the pre-trained image tower is trained at a rate that only new layers bear."""
    rate = config.lr * config.coef_lr
    is_pretrained = config.init_model is not None or config.clip_weights != "none"
    if not config.is_training or not is_pretrained or rate < HIGH_TOWER_RATE or _tower_is_frozen(config):
        return []
    text = (
        f"--coef_lr {config.coef_lr:g}: the pre-trained image tower is trained at {rate:.0e} (--lr times "
        "--coef_lr), which soon destroys what it has learned; the published fine-tuning gives --coef_lr 1e-3"
    )
    return [Remark(text, is_warning=True)]


def _loss_remarks(config: Config) -> list[Remark]:
    if config.loss == "sigmoid" and config.learn_logit_scale:
        return [Remark("--learn_logit_scale has no effect: --loss sigmoid always learns scale and bias")]
    return []


def _head_remarks(config: Config, given: Collection[str]) -> list[Remark]:
    """Flags of HMMC's head, given together with another one."""
    names = ("use_frame_fea", "top_frames", "weight_VTM_finetune", "weight_FTM_finetune")
    if config.head == "hmmc":
        return []
    return [
        Remark(f"--{name} has no effect: it is for --head hmmc, not {config.head}")
        for name in names
        if name in given
    ]


def _tower_is_frozen(config: Config) -> bool:
    return config.lora > 0 or "image" in (entry.strip() for entry in config.freeze.split(","))


def check_config(config: Config, *, program: str) -> None:
    """Raise `UserError` for settings that cannot work with any data."""
    _check_job(config, program=program)
    _check_evaluation(config)
    _check_freeze(config)
    _check_loss(config)
    _check_videos(config)
    _check_shards(config)
    for name in AT_LEAST_ONE:
        value = getattr(config, name)
        _require(value >= 1, f"--{name} {value}: must be at least 1")
    for name in NOT_NEGATIVE:
        value = getattr(config, name)
        # NaN fails both comparisons.
        _require(value is None or 0 <= value < math.inf, f"--{name} {value}: must be 0 or more")
    _require(
        not (config.overwrite and config.resume is not None),
        "--overwrite: starts anew, --resume continues; give one of them",
    )
    _require(config.seed < 2**62, f"--seed {config.seed}: must be less than 2**62")
    _require(
        config.max_words is None or config.max_words >= 3,
        f"--max_words {config.max_words}: must be at least 3, for the start token, a word and the end token",
    )
    _require(
        config.image_size is None or config.image_size >= 1,
        f"--image_size {config.image_size}: must be 1 or more",
    )
    _require(
        0 <= config.patch_dropout < 1,
        f"--patch_dropout {config.patch_dropout}: must be from 0 to less than 1",
    )
    _require(
        not config.use_frame_fea or config.top_frames <= config.max_frames,
        f"--top_frames {config.top_frames}: cannot exceed --max_frames {config.max_frames}",
    )
    if config.precision == "fp16":
        import torch  # takes seconds; a wrong flag is reported without it

        _require(torch.cuda.is_available(), "--precision fp16: needs a GPU; on a CPU give bf16 or fp32")
    _require(0 <= config.contrast_momentum <= 1, "--contrast_momentum: must be between 0 and 1")
    _require(config.contrast_temperature > 0, "--contrast_temperature: must be above 0")
    _require(0 <= config.ema < 1, f"--ema {config.ema:g}: must be 0 or more and less than 1, such as 0.999")
    _require(0 <= config.warmup_proportion <= 1, "--warmup_proportion: must be between 0 and 1")
    _require(
        config.batch_size % config.gradient_accumulation_steps == 0,
        f"--batch_size {config.batch_size}: must be a multiple of --gradient_accumulation_steps "
        f"{config.gradient_accumulation_steps}",
    )


def _check_job(config: Config, *, program: str) -> None:
    """The job, its data sets and its losses."""
    pretraining = program == "main_pretrain.py"
    _require(
        config.do_pretrain or config.do_train or config.do_eval or config.do_params,
        "nothing to do: give --do_pretrain, --do_eval or --do_params"
        if pretraining
        else "nothing to do: give --do_train, --do_eval or --do_params",
    )
    _require(
        not (pretraining and config.do_train), "--do_train: fine-tuning is main_task_retrieval.py's work"
    )
    _require(not config.do_pretrain or pretraining, "--do_pretrain: pre-training is main_pretrain.py's work")
    _require(
        config.task == "retrieval",
        "--task retrieval_VT: the published method does not match titles; use --task retrieval",
    )
    for flag, dataset in (("--dataset", config.dataset), ("--eval_dataset", config.test_dataset)):
        languages = dataset_spec(dataset, flag=flag).languages
        hint = f"; a bilingual model can be evaluated there with --language {languages[0]}"
        _require(
            set(languages_of(config.language)) <= set(languages),
            f"--language {config.language}: {flag} {dataset} has {' and '.join(languages)} texts only"
            + (hint if config.language == BILINGUAL and config.do_eval else ""),
        )
    require_choice(config.split, [config.dataset, config.test_dataset])
    _require(
        not config.do_pretrain or config.head == "hmmc",
        f"--head {config.head}: the losses of pre-training are those of --head hmmc; give it to fine-tuning",
    )
    _require(
        not (config.do_pretrain and config.language == BILINGUAL and config.weight_MLM),
        f"--weight_MLM {config.weight_MLM:g}: MLM predicts words of one vocabulary, and --language bilingual "
        "has two; give --weight_MLM 0",
    )
    with_tags = " and ".join(spec.name for spec in DATASETS.values() if spec.has_tags)
    _require(
        config.pretrain_text == "both" or dataset_spec(config.dataset).has_tags,
        f"--pretrain_text {config.pretrain_text}: only {with_tags} has tags; leave the flag out",
    )
    weights = [getattr(config, f"weight_{name}") for name in ("FAM", "VTM", "FTM", "MLM")]
    _require(
        not config.do_pretrain or any(w > 0 for w in weights), "--weight_*: at least one must be above 0"
    )
    _require(
        all(w >= 0 for w in [*weights, config.weight_VTM_finetune, config.weight_FTM_finetune]),
        "--weight_*: a loss weight cannot be negative",
    )


def _check_loss(config: Config) -> None:
    """The loss of fine-tuning. Pre-training has its own."""
    for name, published in (("loss", "softmax"), ("hard_negatives", 0.0), ("learn_logit_scale", False)):
        value = getattr(config, name)
        _require(
            not config.do_pretrain or value == published,
            f"{as_flag(name, value)}: of fine-tuning only; pre-training keeps its losses, leave the flag out",
        )
    _require(
        not config.hard_negatives or config.loss in WEIGHT_NEGATIVES,
        f"--hard_negatives {config.hard_negatives:g}: --loss {config.loss} does not weight its negatives; "
        f"leave the flag out, or give --loss {' or '.join(WEIGHT_NEGATIVES)}",
    )


def _check_videos(config: Config) -> None:
    """Flags of --frames_from videos."""
    if config.frames_from != "videos":
        for item in dataclasses.fields(VideoFlags):
            value = getattr(config, item.name)
            _require(
                value == item.default or (config.shards is not None and item.name in DECODING),
                f"{as_flag(item.name, value)}: is for --frames_from videos; add that, or leave it out",
            )
        _check_decoding(config)
        return
    evaluates_videos = not config.eval_store
    _require(
        bool(config.video_dir or (config.eval_video_dir and (not config.is_training or config.shards))),
        "--frames_from videos: --video_dir must name the folder with the videos",
    )
    for name, other in (("train_store", "video_dir"), ("eval_store", "eval_video_dir")):
        value = getattr(config, name)
        _require(
            not value or (name == "eval_store" and not config.eval_video_dir),
            f"--{name} {value}: --frames_from videos reads --{other}; leave one of them out",
        )
    _require(
        config.is_training or evaluates_videos,
        f"--eval_store {config.eval_store}: an evaluation from a store; leave --frames_from videos out",
    )
    _check_decoding(config)


def _check_decoding(config: Config) -> None:
    """How videos are decoded, those of a folder or those in shards."""
    for name, least, most in (("num_frames", 1, MOST_STORED), ("short_side", 0, 16384), ("quality", 1, 100)):
        value = getattr(config, name)
        _require(least <= value <= most, f"--{name} {value}: must be from {least} to {most}")
    _require(
        0 < config.video_timeout < math.inf,
        f"--video_timeout {config.video_timeout:g}: must be above 0 seconds",
    )


def _check_shards(config: Config) -> None:
    """Flags beside --shards."""
    if config.shards is None:
        for name in ("shard_weights", "samples_per_epoch"):
            value = getattr(config, name)
            _require(value is None, f"--{name} {value}: is for --shards; give the shards, or leave it out")
        return
    for name in ("train_annotations", "train_list", "train_store"):
        value = getattr(config, name)
        _require(value is None, f"--{name} {value}: --shards holds texts and frames; leave one of them out")
    _require(
        config.select_on != "held_out",
        "--select_on held_out: needs a list of the training videos, which --shards does not have; give "
        "another one",
    )
    samples = config.samples_per_epoch
    _require(samples is None or samples >= 1, f"--samples_per_epoch {samples}: must be at least 1")


def _check_evaluation(config: Config) -> None:
    """The choice of the checkpoint, and post-processing of similarities."""
    _require(
        0 < config.held_out < 1, f"--held_out {config.held_out}: must be a share between 0 and 1, exclusive"
    )
    for name in ("dsl_temperature", "qb_beta"):
        value = getattr(config, name)
        _require(0 < value < math.inf, f"--{name} {value}: must be above 0")


def _check_freeze(config: Config) -> None:
    for part in filter(None, config.freeze.split(",")):
        name, colon, layers = part.strip().partition(":")
        _require(
            name in FREEZABLE and (not colon or layers.isdecimal()),
            f"--freeze {part}: give PART or PART:LAYERS, where PART is one of {', '.join(FREEZABLE)}",
        )
        _require(
            not config.lora or name == "temporal",
            f"--freeze {part}: --lora freezes the towers already; --lora_on says which get adapters",
        )
    _require(
        not (config.lora and config.do_pretrain),
        f"--lora {config.lora}: of fine-tuning only, because momentum encoders copy whole encoders",
    )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)
