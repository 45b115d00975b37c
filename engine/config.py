"""Flags: their names, defaults and help texts.

`Config` describes a run completely. Every field is a flag of the same name. `engine/command_line.py` parses
the flags, `engine/config_checks.py` checks them, and the run saves them to OUTPUT_DIR/config.json.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from common.atomic_files import write_json
from dataloaders.datasets.registry import (
    DATASETS,
    DEFAULT_DATASET,
    dataset_spec,
    describe_choices,
    zero_shot_dataset,
)
from dataloaders.datasets.spec import DEFAULT_WORDS
from engine.flags import VideoFlags
from engine.flags import flag as _flag
from modules.heads.registry import HEADS
from modules.losses.table import LOSSES

_NAMES = ", ".join(DATASETS)
_ZERO_SHOT = ", ".join(
    f"{spec.name} ({' and '.join(spec.zero_shot_for)})" for spec in DATASETS.values() if spec.zero_shot_for
)


@dataclass(frozen=True)
class Config(VideoFlags):
    """All settings of one run. Units: rates per optimiser step, batch sizes over all ranks."""

    output_dir: str = _flag("", "run", "folder for checkpoints, log.txt, metrics.jsonl and config.json")
    overwrite: bool = _flag(
        False, "run", "delete the training that OUTPUT_DIR holds and start a new one there"
    )
    do_pretrain: bool = _flag(False, "run", "pre-train (main_pretrain.py)")
    do_train: bool = _flag(False, "run", "fine-tune (main_task_retrieval.py)")
    do_eval: bool = _flag(False, "run", "evaluate --init_model on the test split")
    do_params: bool = _flag(False, "run", "print the number of parameters of each part and stop")
    task: str = _flag("retrieval", "run", "downstream task", choices=("retrieval", "retrieval_VT"))
    seed: int = _flag(42, "run", "seed of weights, sample order, frames, masks and augmentation")
    n_display: int = _flag(100, "run", "log every N optimiser steps")
    logdir: str | None = _flag(None, "run", "folder for TensorBoard scalars", kind=str)
    wandb: bool = _flag(False, "run", "also log to Weights & Biases (pip install wandb)")
    local_rank: int | None = _flag(
        None,
        "run",
        "device number when no launcher sets LOCAL_RANK",
        aliases=("--local-rank",),
        kind=int,
    )

    dataset: str = _flag(
        DEFAULT_DATASET,
        "data",
        f"data set to train on and, in fine-tuning, to test on: {_NAMES}, or a table of your own videos and "
        "captions (docs/YOUR_DATA.md)",
    )
    language: str = _flag(
        "chinese",
        "data",
        "language of the captions; bilingual: one model for both languages (docs/TRAINING.md)",
        choices=("chinese", "english", "bilingual"),
    )
    data_dir: str = _flag(
        "", "data", "folder with one subfolder for each data set (docs/DATA.md) [$HMMC_DATA or 'data']"
    )
    split: str | None = _flag(
        None,
        "data",
        f"published lists to train and test on, where a data set has several: {describe_choices()}",
        kind=str,
    )
    train_annotations: str | None = _flag(
        None,
        "data",
        "annotation file to train on, instead of the default",
        aliases=("--pretrain_path",),
        kind=str,
    )
    train_list: str | None = _flag(None, "data", "list of training videos, instead of the default", kind=str)
    train_store: str | None = _flag(None, "data", "frame store to train on, instead of the default", kind=str)
    shards: str | None = _flag(
        None, "data", "train on tar shards instead: a/{00..99}.tar, s3://b/x/::c (docs/SHARDS.md)", kind=str
    )
    shard_weights: str | None = _flag(
        None, "data", "factors on the samples of each --shards source in an epoch: 1::0.5 [1]", kind=str
    )
    samples_per_epoch: int | None = _flag(None, "data", "samples of --shards without sizes.json", kind=int)
    shard_readers: int = _flag(
        0, "data", "shards read at once by all ranks; batches depend on it (0: chosen, and kept by --resume)"
    )
    shuffle_buffer: int = _flag(256, "data", "samples among which each reader of --shards shuffles")
    max_bad_share: float = _flag(0.05, "data", "stop if more of an epoch's --shards samples are unusable")
    eval_dataset: str | None = _flag(
        None,
        "data",
        f"data set to evaluate on [fine-tuning and tables: --dataset; pre-training: {_ZERO_SHOT}]",
        kind=str,
    )
    eval_annotations: str | None = _flag(
        None,
        "data",
        "annotation file to evaluate on, instead of the default",
        aliases=("--val_path",),
        kind=str,
    )
    eval_list: str | None = _flag(None, "data", "list of test videos, instead of the default", kind=str)
    eval_store: str | None = _flag(
        None, "data", "frame store to evaluate on, instead of the default", kind=str
    )
    allow_missing: bool = _flag(
        False,
        "data",
        "skip videos that the store or folder lacks; the evaluation is then not comparable",
    )
    num_thread_reader: int = _flag(1, "data", "loader processes on each rank; 0 reads in the main process")
    max_words: int | None = _flag(
        None,
        "data",
        f"tokens in a text [defined by the data set (docs/DATA.md); most: {DEFAULT_WORDS}]",
        kind=int,
    )
    max_frames: int = _flag(12, "data", "frames in a clip; more than are stored repeat")
    frame_sample: str = _flag(
        "uniform",
        "data",
        "stored frames to train on: equally spaced; any (random); or one at random of each of --max_frames "
        "equal parts (uniform_random). Evaluation takes equally spaced ones",
        choices=("uniform", "random", "uniform_random"),
    )
    frame_sample_len: str = _flag(
        "fix",
        "data",
        "number of frames: --max_frames, or by the duration in the annotations or the frame store",
        choices=("fix", "dynamic"),
    )
    decode_scale: str = _flag(
        "auto", "data", "decode large training frames at 1/2, 1/4 or 1/8", choices=("auto", "full")
    )
    decode_on: str = _flag(
        "cpu",
        "data",
        "training frames are decoded by the loader processes, or by the GPU (nvJPEG): for few cores a GPU",
        choices=("cpu", "gpu"),
    )
    augment_per: str = _flag(
        "frame",
        "data",
        "the augmentation of pre-training is drawn per frame or per clip",
        choices=("frame", "clip"),
    )

    clip_model: str = _flag(
        "ViT-B-32-quickgelu",
        "model",
        "image and text tower: an open_clip name, hf-hub:OWNER/MODEL, a folder of such a model, or a JSON "
        "file (docs/BACKBONES.md)",
    )
    clip_weights: str = _flag("openai", "model", "'openai' or another open_clip tag, a local file, or 'none'")
    image_size: int | None = _flag(
        None,
        "model",
        "pixels a side of the frames, if not the model's own: its position embeddings are interpolated",
        kind=int,
    )
    patch_dropout: float = _flag(
        0.0, "model", "share of the patches of each frame that the image tower leaves out while training"
    )
    tokenizer: str = _flag(
        "", "model", "transformers name or folder of the tokenizer of --clip_model [the model's own]"
    )
    pretrained_text: str = _flag(
        "hfl/chinese-roberta-wwm-ext",
        "model",
        "transformers model name or folder of a BERT model; see --text_tower",
    )
    text_tower: str = _flag(
        "auto",
        "model",
        "text encoder: that of --clip_model, or the BERT model of --pretrained_text; auto: the latter for "
        "Chinese captions if --clip_model has learned English only",
        choices=("auto", "clip", "bert"),
    )
    legacy_special_tokens: bool = _flag(
        False,
        "model",
        "mark Chinese texts with CLIP's special tokens, as the published Chinese model needs",
    )
    cache_dir: str = _flag("", "model", "folder for downloaded weights [the caches of the libraries]")
    init_model: str | None = _flag(None, "model", "checkpoint to start from or to evaluate", kind=str)
    # None: no flag said it. It means off, but an evaluation then refuses a checkpoint that has this part.
    use_temp: bool | None = _flag(None, "model", "temporal transformer over the frames", kind=bool)
    use_frame_fea: bool = _flag(False, "model", "also match texts with single frames (FTM)")
    top_frames: int = _flag(3, "model", "number of best frames in the frame score of evaluation")
    head: str = _flag(
        "hmmc",
        "model",
        "similarity of texts and videos: video and best frames; mean of the frames (CLIP4Clip); words with "
        "frames (DRL's WTI); frames that the text attends to (X-Pool)",
        choices=tuple(HEADS),
    )
    wti_layers: int = _flag(2, "model", "linear layers that weight words and frames in --head wti")
    xpool_heads: int = _flag(1, "model", "attention heads of --head xpool")
    head_padding: str = _flag(
        "left_out",
        "model",
        "padding in --head wti and xpool: left out, or as the published code of each counts it",
        choices=("left_out", "published"),
    )
    temporal_layers: int = _flag(4, "model", "layers of the temporal transformer")
    weight_VTM_finetune: float = _flag(0.85, "model", "weight of VTM in fine-tuning")
    weight_FTM_finetune: float = _flag(0.15, "model", "weight of FTM in fine-tuning")
    loss: str = _flag(
        "softmax",
        "model",
        "loss of fine-tuning: cross-entropy in the batch, or yes or no for every pair (SigLIP)",
        choices=tuple(LOSSES),
    )
    hard_negatives: float = _flag(
        0.0, "model", "softmax: weight negatives by exp(this times their logit); 0: all equally"
    )
    learn_logit_scale: bool = _flag(
        False, "model", "learn the factor on the cosines, at most 100; published: a constant of CLIP"
    )
    weight_FAM: float = _flag(0.05, "model", "weight of FAM in pre-training")
    weight_VTM: float = _flag(0.45, "model", "weight of VTM in pre-training")
    weight_FTM: float = _flag(0.45, "model", "weight of FTM in pre-training")
    weight_MLM: float = _flag(0.05, "model", "weight of MLM in pre-training")
    projector_layers: int = _flag(2, "model", "layers of the projector and of the predictor (FAM)")
    pretrain_text: str = _flag(
        "both",
        "model",
        "texts that pre-training uses, where a data set has titles and tags",
        choices=("both", "title", "tag"),
    )
    negatives: str = _flag(
        "queue",
        "model",
        "negatives come from the queues, or from the other clips of the batch",
        choices=("queue", "batch"),
    )
    contrast_num_negative: int = _flag(4096, "model", "queue size")
    contrast_momentum: float = _flag(0.99, "model", "momentum of the key encoders")
    contrast_temperature: float = _flag(0.07, "model", "temperature of the queue losses")

    freeze: str = _flag(
        "",
        "model",
        "parts to freeze, separated by commas: image, text, temporal; PART:N freezes its first N layers",
    )
    lora: int = _flag(
        0, "model", "rank of LoRA adapters, which learn in place of the towers' weights (0: off)"
    )
    lora_on: str = _flag(
        "both", "model", "towers that get adapters; both are frozen", choices=("both", "image", "text")
    )

    epochs: int = _flag(20, "optimisation", "passes over the training set")
    batch_size: int = _flag(256, "optimisation", "clips in one optimiser step, over all ranks")
    batch_size_val: int = _flag(
        3500, "optimisation", "clips or texts in an evaluation batch of all ranks; fewer of large clips"
    )
    gradient_accumulation_steps: int = _flag(
        1, "optimisation", "forward passes that share one optimiser step"
    )
    lr: float = _flag(1e-4, "optimisation", "learning rate of all parts except the two pre-trained encoders")
    text_lr: float = _flag(1e-5, "optimisation", "learning rate of the text encoder")
    coef_lr: float = _flag(1.0, "optimisation", "the learning rate of the image tower is --lr times this")
    weight_decay: float = _flag(0.2, "optimisation", "decoupled weight decay")
    warmup_proportion: float = _flag(0.1, "optimisation", "share of the steps with a rising learning rate")
    precision: str = _flag(
        "auto",
        "optimisation",
        "products in float32, TF32, bfloat16, float16; auto: bf16 on GPUs that have it, fp16 on older GPUs, "
        "fp32 on CPUs. Weights stay float32",
        choices=("auto", "fp32", "tf32", "bf16", "fp16"),
    )
    enable_amp: bool = _flag(False, "optimisation", "published name of --precision fp16 (GPU only)")

    grad_checkpointing: bool = _flag(
        False, "optimisation", "recompute activations in the backward pass: less memory, more time"
    )
    grad_cache: int = _flag(
        0,
        "optimisation",
        "clips a rank encodes at once; the gradient is that of the full batch (0: off)",
    )
    ema: float = _flag(
        0.0,
        "optimisation",
        "decay of the moving average of the weights, which is evaluated and saved in their place (0: off)",
    )
    mask_duplicates: bool = _flag(
        False,
        "optimisation",
        "a clip or text that occurs twice in a batch is not used as a negative of itself",
    )
    compile: str = _flag(
        "auto",
        "optimisation",
        "torch.compile the layers of the encoders; auto: on GPUs, if it works there; without a value: on",
        choices=("auto", "on", "off"),
        bare="on",
    )
    fsdp: bool = _flag(False, "optimisation", "shard weights and optimiser over the ranks (fully_shard)")

    resume: str | None = _flag(
        None,
        "saving and resuming",
        "resume a stopped run: 'auto' (newest state in OUTPUT_DIR) or a path",
        kind=str,
    )
    save_steps: int = _flag(
        1000, "saving and resuming", "save the training state every N steps (0: only at the end of an epoch)"
    )
    keep: int = _flag(
        2,
        "saving and resuming",
        "newest training states to keep, besides that of the best epoch",
    )
    max_bad_steps: int = _flag(
        10, "saving and resuming", "stop after N steps in a row whose loss or gradient is not finite"
    )
    max_bad_samples: int = _flag(1000, "saving and resuming", "stop after more than N unreadable clips")

    allow_other_head: bool = _flag(
        False, "evaluation", "evaluate a checkpoint with --head although it was trained with another one"
    )
    protocol: str = _flag(
        "auto",
        "evaluation",
        "what a query is: one caption, or all captions of a video joined, also in training [by data set]",
        choices=("auto", "one_caption", "several_captions", "paragraph"),
    )
    select_on: str = _flag(
        "last",
        "evaluation",
        "how the checkpoint to report is chosen; only 'test' evaluates the test list after each epoch",
        choices=("val", "held_out", "last", "test"),
    )
    held_out: float = _flag(
        0.05,
        "evaluation",
        "share of the training videos that --select_on held_out keeps for evaluation",
    )
    bootstrap: int = _flag(1000, "evaluation", "resamples for the 95% intervals (0: none)")
    report: bool = _flag(True, "evaluation", "write OUTPUT_DIR/report after the final evaluation")
    dsl: bool = _flag(False, "evaluation", "also report dual softmax, which uses all test queries at once")
    dsl_temperature: float = _flag(100.0, "evaluation", "factor on the cosine similarities in dual softmax")
    qb_norm: bool = _flag(
        False, "evaluation", "also report querybank normalisation, which uses training captions"
    )
    qb_beta: float = _flag(20.0, "evaluation", "factor on the cosine similarities in querybank normalisation")
    qb_bank: int = _flag(0, "evaluation", "training captions in the querybank (0: all)")
    save_features: str | None = _flag(
        None, "evaluation", "folder for the features of the test split (tools/evaluate_features.py)", kind=str
    )
    save_similarity: bool = _flag(False, "evaluation", "write OUTPUT_DIR/similarity.npy [captions, videos]")

    cross_model: str = _flag("cross-base", "no effect", "folder of the published configuration")
    lr_decay: float = _flag(0.9, "no effect", "the published code does not use it either")
    n_gpu: int = _flag(1, "no effect", "the launcher sets the number of ranks (WORLD_SIZE)")
    world_size: int = _flag(0, "no effect", "taken from the launcher's environment")
    rank: int = _flag(0, "no effect", "taken from the launcher's environment")
    fp16_opt_level: str = _flag("O1", "no effect", "apex is not used; see --precision")

    @property
    def is_training(self) -> bool:
        return self.do_pretrain or self.do_train

    @property
    def job(self) -> str:
        """What the run does, in one word."""
        return "pretrain" if self.do_pretrain else "train" if self.do_train else "eval"

    @property
    def test_dataset(self) -> str:
        """The data set that this run evaluates on."""
        if self.eval_dataset:
            return self.eval_dataset
        if self.do_pretrain and not dataset_spec(self.dataset).is_table:
            return zero_shot_dataset(self.language)
        return self.dataset

    @property
    def initial_model(self) -> Path | None:
        """`init_model` as a path: a checkpoint or, for an evaluation, a folder of checkpoints."""
        return None if self.init_model is None else Path(self.init_model).expanduser()

    def save(self, path: Path) -> None:
        """Write all settings as JSON, atomically."""
        write_json(path, dataclasses.asdict(self))
