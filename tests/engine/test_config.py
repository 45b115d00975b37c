"""The command line: published flags and defaults, checks, and the frozen list of all flags."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from common.errors import UserError
from engine.command_line import build_parser
from engine.config import Config
from engine.config_checks import parse_and_check

# The published flags of both programs with their published defaults.
PUBLISHED_DEFAULTS = {
    "task": "retrieval",
    "num_thread_reader": 1,
    "lr": 1e-4,
    "text_lr": 1e-5,
    "epochs": 20,
    "batch_size": 256,
    "batch_size_val": 3500,
    "lr_decay": 0.9,
    "n_display": 100,
    "seed": 42,
    "max_frames": 12,
    "frame_sample": "uniform",
    "frame_sample_len": "fix",
    "language": "chinese",
    "cross_model": "cross-base",
    "gradient_accumulation_steps": 1,
    "n_gpu": 1,
    "cache_dir": "",
    "world_size": 0,
    "rank": 0,
    "coef_lr": 1.0,
    "contrast_num_negative": 4096,
    "contrast_momentum": 0.99,
    "contrast_temperature": 0.07,
    "logdir": None,
    "init_model": None,
    "use_temp": None,  # off
    "use_frame_fea": False,
    "enable_amp": False,
    "do_pretrain": False,
    "do_train": False,
    "do_eval": False,
    "do_params": False,
}
PUBLISHED_NAMES = {"local_rank", "local-rank", "pretrain_path", "val_path", "dataset", "max_words"}
OURS = {
    *(
        "overwrite",
        "head",
        "wti_layers",
        "xpool_heads",
        "head_padding",
        "allow_other_head",
        "no-legacy_special_tokens",
        "wandb",
        "freeze",
        "grad_checkpointing",
        "grad_cache",
        "mask_duplicates",
        "compile",
        "fsdp",
    ),
    *("ema", "lora", "lora_on", "loss", "hard_negatives", "learn_logit_scale", "no-learn_logit_scale"),
    *("shards", "shard_weights", "samples_per_epoch", "shard_readers", "shuffle_buffer", "max_bad_share"),
    *("resume", "save_steps", "keep", "max_bad_steps", "max_bad_samples"),
    *("protocol", "select_on", "held_out", "bootstrap", "report", "no-report", "dsl", "dsl_temperature"),
    *("qb_norm", "qb_beta", "qb_bank", "save_features", "save_similarity"),
    *("frames_from", "video_dir", "eval_video_dir", "num_frames", "short_side", "quality"),
    *("clip_from_id", "video_timeout", "frame_cache"),
    "negatives",
    "no-use_frame_fea",
    "no-use_temp",
    "pretrain_text",
    "projector_layers",
    "temporal_layers",
    "top_frames",
    "allow_missing",
    "augment_per",
    "decode_on",
    "decode_scale",
    "clip_model",
    "clip_weights",
    *("image_size", "patch_dropout", "tokenizer"),
    "data_dir",
    "split",
    "eval_annotations",
    "eval_dataset",
    "eval_list",
    "eval_store",
    "fp16_opt_level",
    "legacy_special_tokens",
    "output_dir",
    "precision",
    "pretrained_text",
    "text_tower",
    "train_annotations",
    "train_list",
    "train_store",
    "warmup_proportion",
    "weight_decay",
    "weight_FAM",
    "weight_FTM",
    "weight_FTM_finetune",
    "weight_MLM",
    "weight_VTM",
    "weight_VTM_finetune",
}
TRAIN = ["--do_train", "--output_dir", "out", "--language", "english", "--dataset", "msrvtt"]
TRAIN += ["--coef_lr", "1e-3"]


def parse(*argv: str, program: str = "main_task_retrieval.py") -> Config:
    return parse_and_check(argv, program=program)[0]


def flags_of(program: str) -> set[str]:
    parser = build_parser(program)
    names = {name.removeprefix("--") for action in parser._actions for name in action.option_strings}
    return names - {"-h", "help"}


@pytest.mark.parametrize("program", ["main_pretrain.py", "main_task_retrieval.py"])
def test_the_list_of_flags_is_frozen(program: str) -> None:
    """A new flag is a decision: it goes into --help, docs/FLAGS.md and this list."""
    assert flags_of(program) == set(PUBLISHED_DEFAULTS) | PUBLISHED_NAMES | OURS


@pytest.mark.parametrize("program", ["main_pretrain.py", "main_task_retrieval.py"])
def test_published_defaults(program: str) -> None:
    defaults = vars(build_parser(program).parse_args(["--output_dir", "out"]))
    assert {name: defaults[name] for name in PUBLISHED_DEFAULTS} == PUBLISHED_DEFAULTS


def test_defaults_in_which_the_programs_differ() -> None:
    pretrain = vars(build_parser("main_pretrain.py").parse_args(["--output_dir", "out"]))
    finetune = vars(build_parser("main_task_retrieval.py").parse_args(["--output_dir", "out"]))
    assert (pretrain["weight_decay"], finetune["weight_decay"]) == (0.05, 0.2)
    assert (pretrain["warmup_proportion"], finetune["warmup_proportion"]) == (0.2, 0.1)


def test_every_flag_has_help_in_a_group() -> None:
    for item in dataclasses.fields(Config):
        assert item.metadata["help"] and item.metadata["group"]


def test_bird_is_chvtt_and_both_spellings_of_the_local_rank_work() -> None:
    for spelling in ("--local_rank", "--local-rank"):
        config = parse("--do_train", "--output_dir", "out", "--dataset", "bird", f"{spelling}=3")
        assert config.dataset == "chvtt" and config.local_rank == 3


def test_compile_without_a_value_is_on() -> None:
    """As on command lines of the time when it had none; the next flag is not its value."""
    given = ([], ["--compile"], ["--compile", "--fsdp"], ["--compile", "off"])
    found = [parse(*TRAIN, *more) for more in given]
    assert [config.compile for config in found] == ["auto", "on", "on", "off"]
    assert [config.fsdp for config in found] == [False, False, True, False]


def test_the_data_set_that_is_evaluated() -> None:
    pretrain = ["--do_pretrain", "--output_dir", "out"]
    assert parse(*pretrain, program="main_pretrain.py").test_dataset == "vatex"
    assert parse(*pretrain, "--language", "english", program="main_pretrain.py").test_dataset == "msrvtt"
    assert parse(*pretrain, "--eval_dataset", "chvtt", program="main_pretrain.py").test_dataset == "chvtt"
    assert parse(*TRAIN).test_dataset == "msrvtt"


def test_flags_without_effect_say_so_once() -> None:
    _, remarks = parse_and_check(
        [*TRAIN, "--n_gpu", "8", "--lr_decay", "0.5"], program="main_task_retrieval.py"
    )
    assert len(remarks) == 2 and all("no effect" in str(remark) for remark in remarks)
    assert parse_and_check(TRAIN, program="main_task_retrieval.py")[1] == []


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--use_frame_fea", "--top_frames", "13"], "--top_frames 13.*--max_frames 12"),
        (["--pretrain_text", "tag"], "only chvtt has tags"),
        (["--max_words", "2"], "--max_words 2.*at least 3"),
        (["--batch_size", "0"], "--batch_size 0"),
        (["--batch_size", "10", "--gradient_accumulation_steps", "4"], "--batch_size 10.*multiple"),
        (["--language", "chinese"], "msrvtt has english texts only"),
        (["--task", "retrieval_VT"], "retrieval_VT"),
        (["--do_pretrain"], "main_pretrain.py"),
        (["--contrast_num_negative", "0"], "--contrast_num_negative"),
        (["--contrast_temperature", "0"], "--contrast_temperature"),
        (["--weight_FTM_finetune", "-1"], "negative"),
        (["--lora", "8", "--freeze", "text:2"], "--freeze text:2: --lora freezes the towers already"),
        (["--lora", "-1"], "--lora -1: must be 0 or more"),
        (["--ema", "1"], "--ema 1: must be 0 or more and less than 1"),
        (["--hard_negatives", "-1"], "--hard_negatives -1.0: must be 0 or more"),
        (["--hard_negatives", "0.5", "--loss", "sigmoid"], "--loss sigmoid does not weight.*--loss softmax"),
        (["--num_thread_reader", "-1"], "--num_thread_reader"),
        (["--seed", "-1"], "--seed -1: must be 0 or more"),
        (["--seed", "9" * 30], "9: must be less than 2"),
        (["--local_rank", "-1"], "--local_rank -1"),
        (["--lr", "nan"], "--lr nan: must be 0 or more"),
        (["--weight_decay", "-0.1"], "--weight_decay -0.1"),
        (["--freeze", "image:6,words"], "--freeze words: give PART"),
        (["--freeze", "image:x"], "--freeze image:x"),
        (["--keep", "0"], "--keep 0"),
        (["--save_steps", "-1"], "--save_steps -1"),
        (["--held_out", "1"], "--held_out 1.0"),
        (["--dsl_temperature", "0"], "--dsl_temperature 0.0"),
    ],
)
def test_settings_that_cannot_work_name_the_flag(argv: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        parse(*TRAIN, *argv)
    assert "\n" not in str(error.value)


def test_pretraining_keeps_its_losses() -> None:
    pretrain = ["--do_pretrain", "--output_dir", "out", "--coef_lr", "1e-3"]
    for flags in (
        ["--loss", "sigmoid"],
        ["--hard_negatives", "0.5"],
        ["--learn_logit_scale"],
        ["--lora", "8"],
    ):
        with pytest.raises(UserError, match=f"{' '.join(flags)}: of fine-tuning only"):
            parse(*pretrain, *flags, program="main_pretrain.py")
    _, remarks = parse_and_check(
        [*TRAIN, "--loss", "sigmoid", "--learn_logit_scale"], program="main_task_retrieval.py"
    )
    assert "--learn_logit_scale has no effect" in str(remarks[-1])


@pytest.mark.parametrize(
    ("flags", "on_gpu", "precision"),
    [
        ([], True, "fp16"),
        (["--precision", "bf16"], True, "bf16"),
        (["--precision", "fp32"], True, "fp32"),
        ([], False, "auto"),
    ],
)
def test_enable_amp_means_fp16_on_gpus_unless_precision_says_otherwise(
    flags: list[str], on_gpu: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    config, remarks = parse_and_check([*TRAIN, "--enable_amp", *flags], program="main_task_retrieval.py")
    assert config.precision == precision
    assert len(remarks) == (0 if on_gpu else 1)


def test_masking_duplicates_needs_negatives_of_the_batch() -> None:
    flags = ["--do_pretrain", "--output_dir", "out", "--coef_lr", "1e-3", "--mask_duplicates"]
    assert "no effect" in str(parse_and_check(flags, program="main_pretrain.py")[1][0])
    assert parse_and_check([*flags, "--negatives", "batch"], program="main_pretrain.py")[1] == []
    assert parse_and_check([*TRAIN, "--mask_duplicates"], program="main_task_retrieval.py")[1] == []


def test_top_frames_count_only_where_frames_are_used() -> None:
    config, _ = parse_and_check([*TRAIN, "--max_frames", "2"], program="main_task_retrieval.py")
    assert (config.max_frames, config.top_frames) == (2, 3)


@pytest.mark.parametrize(
    ("flags", "warned"),
    [
        ((), True),  # 1e-4, the default
        (("--coef_lr", "1e-3"), False),
        (("--coef_lr", "0.8"), False),  # the highest published
        (("--clip_weights", "none"), False),
        (("--freeze", "text,image"), False),
        (("--lora", "8"), False),
        (("--freeze", "image:6"), True),
    ],
)
def test_a_pretrained_image_tower_at_the_rate_of_new_layers_is_a_warning(
    flags: tuple[str, ...], warned: bool
) -> None:
    argv = ["--do_train", "--output_dir", "out", "--dataset", "msrvtt", "--language", "english", *flags]
    remarks = parse_and_check(argv, program="main_task_retrieval.py")[1]
    assert [remark.is_warning for remark in remarks] == [True] * warned
    assert not warned or "--coef_lr 1: the pre-trained image tower is trained at 1e-04" in str(remarks[0])


def test_a_bert_model_for_english_is_said_to_be_unused() -> None:
    remarks = parse_and_check([*TRAIN, "--pretrained_text", "some/bert"], program="main_task_retrieval.py")[1]
    assert [remark.is_warning for remark in remarks] == [True]
    assert "--pretrained_text some/bert has no effect: --language english uses the text encoder of" in (
        str(remarks[0])
    )


def test_nothing_to_do_is_an_error() -> None:
    with pytest.raises(UserError, match="nothing to do"):
        parse("--output_dir", "out")


def test_an_unknown_flag_and_an_abbreviation_exit_with_2() -> None:
    for argv in (["--no_such_flag"], ["--batch", "4"]):
        with pytest.raises(SystemExit) as exit_:
            parse(*TRAIN, *argv)
        assert exit_.value.code == 2


def test_saved_settings_are_readable_json(tmp_path: Path) -> None:
    config = parse(*TRAIN, "--seed", "7")
    config.save(tmp_path / "config.json")
    saved = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert saved == dataclasses.asdict(config) and saved["seed"] == 7
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_the_data_folder_comes_from_the_flag_then_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HMMC_DATA", raising=False)
    assert parse(*TRAIN).data_dir == "data"
    monkeypatch.setenv("HMMC_DATA", "/data/video")
    assert parse(*TRAIN).data_dir == "/data/video"
    assert parse(*TRAIN, "--data_dir", "here").data_dir == "here"


SHARDS = ["--do_train", "--language", "english", "--dataset", "msrvtt", "--output_dir", "o", "--shards", "a"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([*SHARDS, "--select_on", "held_out"], "--select_on held_out: needs a list of the training videos"),
        ([*SHARDS, "--train_store", "s"], "--train_store s: --shards holds texts and frames"),
        ([*SHARDS, "--samples_per_epoch", "0"], "--samples_per_epoch 0: must be at least 1"),
        ([*SHARDS, "--num_frames", "0"], "--num_frames 0: must be from 1"),
        ([*SHARDS, "--max_bad_share", "-1"], "--max_bad_share -1.0: must be 0 or more"),
        ([*SHARDS[:-2], "--shard_weights", "1"], "--shard_weights 1: is for --shards"),
    ],
)
def test_flags_beside_shards(flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_and_check(flags, program="main_task_retrieval.py")


def test_videos_in_shards_have_the_settings_of_stores() -> None:
    config, _ = parse_and_check([*SHARDS, "--num_frames", "12"], program="main_task_retrieval.py")
    assert config.num_frames == 12
