"""Build a run's data from its Config: tokenizer, training set, this rank's part of a split to evaluate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from common.errors import UserError
from common.languages import languages_of
from dataloaders.datasets.eval_protocol import (
    apply_protocol,
    name_protocol,
    split_languages,
    training_texts,
)
from dataloaders.datasets.known_splits import (
    describe_split,
    is_published_test,
    leaks,
    list_identity,
    name_mismatch,
)
from dataloaders.datasets.registry import dataset_spec, read_examples
from dataloaders.datasets.spec import TRAINING, VALIDATION, SplitFiles
from dataloaders.datasets.splits import (
    MissingVideos,
    hold_out,
)
from dataloaders.examples import Examples, merge_languages
from dataloaders.frame_source import FrameSource
from dataloaders.frame_store.format import FAILURES_FILE
from dataloaders.loader import EpochSampler
from dataloaders.video_text import VideoTextDataset
from engine.config import Config
from engine.distributed.world import World
from engine.frame_sources import find_videos
from engine.input_files import (
    eval_dataset_hint,
    evaluation_files,
    how_to_store,
    shown_name,
    training_files,
    training_split,
)
from engine.input_spec import InputSpec
from engine.inspection import inspect_frames, inspect_texts
from engine.loaders import TrainingData, batch_per_rank, evaluation_loader, rank_loader
from engine.logs.run_log import RunLog

# A split as its files give it: examples, where their frames are, and the videos that are missing there.
Split = tuple[Examples, FrameSource, MissingVideos]


@dataclass(frozen=True)
class Queries:
    """The captions in one language of a split to evaluate: `examples` has all videos of the split."""

    language: str
    examples: Examples
    captions: DataLoader


@dataclass(frozen=True)
class EvaluationData:
    """The videos and captions of a split to evaluate, and the videos that the frame store lacks.

    `examples` has all captions; `queries` has those of each language.
    """

    dataset: str
    examples: Examples
    missing: MissingVideos
    store: FrameSource
    videos: DataLoader
    queries: tuple[Queries, ...]
    protocol: str = "auto"
    as_published: bool = True

    def counts(self) -> dict[str, Any]:
        """Counts for the result file, and which list this is.

        `comparable` is False where videos are missing, and True for a published test list with its own
        sentences and its published protocol. For another list nobody can say, so it is left out.
        """
        counts = {
            "videos": self.examples.num_videos,
            "captions": self.examples.num_captions,
            "videos_of_benchmark": self.missing.total,
            "list": list_identity(self.dataset, self.examples),
        }
        if self.missing:
            return {**counts, "comparable": False}
        is_known = self.as_published and is_published_test(self.dataset, self.examples)
        return {**counts, "comparable": True} if is_known else counts


def read_training_split(config: Config, world: World, log: RunLog) -> Split:
    """The training set, read from its files. Collective. No model is needed.

    Raises `UserError`, which names the bad file or flag.
    """
    return _read_split(config, world, config.dataset, training_split(config), training_files(config), log)


def build_training_data(
    config: Config, world: World, spec: InputSpec, log: RunLog, read: Split
) -> TrainingData:
    """Data set, sampler and loader of this rank. Raises `UserError`, which names the bad flag."""
    if config.decode_on == "gpu" and world.device.type != "cuda":
        raise UserError("--decode_on gpu: no GPU here; leave it out to decode in the loader processes")
    split = training_split(config)
    examples, store, missing = read
    if missing:
        log.warning(f"training without {missing}")
    if split == "pretrain":
        examples = _select_texts(examples, config.pretrain_text)
    protocol = chosen_protocol(config, config.dataset)
    examples = training_texts(examples, protocol)
    held_out = None
    if config.select_on == "held_out":
        examples, held_out = hold_out(examples, share=config.held_out, seed=config.seed)
        log.info(
            f"held out to choose the checkpoint: {held_out.num_videos:,} of "
            f"{held_out.num_videos + examples.num_videos:,} training videos with all their "
            f"{held_out.num_captions:,} captions (--seed {config.seed})"
        )
    dataset = _dataset(config, world, examples, store, spec, name=config.dataset, split=split, view="pairs")
    per_rank = batch_per_rank(config, world, len(dataset))
    sampler = EpochSampler(
        len(dataset), rank=world.rank, world_size=world.size, batch_size=per_rank, seed=config.seed
    )
    log.info(
        f"train on {config.dataset} {config.language}: {examples.num_videos:,} videos, "
        f"{len(dataset):,} examples{' (paragraphs)' if protocol == 'paragraph' else ''}"
    )
    inspect_texts(config, dataset, world, log)
    inspect_frames(config, dataset, world, log)
    loader = rank_loader(config, world, dataset, sampler, batch_size=per_rank)
    return TrainingData(dataset, sampler, loader, store, held_out)


def read_evaluation_split(config: Config, world: World, log: RunLog, *, split: str = "test") -> Split:
    """The test list (`split` "test") or the validation list ("val"), as `read_training_split`."""
    files = evaluation_files(config, split)
    split = VALIDATION if split == "val" else split
    try:
        return _read_split(config, world, config.test_dataset, split, files, log)
    except UserError as error:
        raise UserError(f"{error}{eval_dataset_hint(config)}") from None


def build_evaluation_data(
    config: Config, world: World, spec: InputSpec, log: RunLog, read: Split
) -> EvaluationData:
    """This rank's part of a list that `read_evaluation_split` has read."""
    examples, store, missing = read
    name = config.test_dataset
    return _evaluation_data(config, world, spec, log, examples, store, missing, name=name, split="test")


def build_held_out_data(
    config: Config, world: World, spec: InputSpec, log: RunLog, train: TrainingData
) -> EvaluationData:
    """This rank's part of the held-out training videos."""
    assert train.held_out is not None
    none_missing = MissingVideos((), train.held_out.num_videos)
    return _evaluation_data(
        config,
        world,
        spec,
        log,
        train.held_out,
        train.store,
        none_missing,
        name=config.dataset,
        split=training_split(config),
    )


def _evaluation_data(
    config: Config,
    world: World,
    spec: InputSpec,
    log: RunLog,
    examples: Examples,
    store: FrameSource,
    missing: MissingVideos,
    *,
    name: str,
    split: str,
) -> EvaluationData:
    """A loader of videos, so that each is decoded once, and one of the captions of each language.

    `split` decides the number of words and frames.
    """
    files = training_files(config) if split in TRAINING else evaluation_files(config, "test")
    label = shown_name(name, files)
    given = split_languages(examples)
    published = name_protocol(given[0], dataset_spec(name).protocol)
    protocol = name_protocol(given[0], chosen_protocol(config, name))
    parts = [apply_protocol(part, protocol) for part in given]
    videos = _dataset(config, world, parts[0], store, spec, name=name, split=split, view="videos")
    video_loader = evaluation_loader(config, world, videos)
    queries = []
    for language, part in zip(languages_of(config.language), parts, strict=True):
        dataset = _dataset(config, world, part, store, spec, name=name, split=split, view="captions")
        queries.append(Queries(language, part, evaluation_loader(config, world, dataset)))
        log.info(
            f"evaluate on {label} {language}: {part.num_videos:,} videos, "
            f"{part.num_captions:,} queries ({protocol}); {chance_recall(part.num_videos)}"
        )
        inspect_texts(config, dataset, world, log)
    inspect_frames(config, dataset, world, log)
    if missing:
        log.warning(f"evaluating without {missing}; not comparable with published figures")
    if protocol != published:
        log.info(f"--protocol {protocol}: papers evaluate {name} with {published}, so figures differ")
    return EvaluationData(
        label,
        parts[0] if len(parts) == 1 else merge_languages(parts),
        missing,
        store,
        videos=video_loader,
        queries=tuple(queries),
        protocol=protocol,
        as_published=protocol == published,
    )


def chosen_protocol(config: Config, dataset: str) -> str:
    """What a query on `dataset` is: --protocol, or that of the data set; "auto": each caption as it is."""
    return dataset_spec(dataset).protocol if config.protocol == "auto" else config.protocol


def chance_recall(videos: int) -> str:
    """R@1 of a random order of the videos, for the log."""
    return f"chance R@1 {100 / max(1, videos):.2g}%"


def _select_texts(examples: Examples, texts: str) -> Examples:
    """--pretrain_text: titles and tags ("both"), titles only ("title"), or the tags as titles ("tags")."""
    if texts == "both" or examples.tags is None:
        return examples
    return replace(examples, captions=examples.captions if texts == "title" else examples.tags, tags=None)


def report_leaks(train: Examples, test: Examples, log: RunLog) -> None:
    """Log test videos and test captions that are in the training set too."""
    overlap = leaks(train, test)
    if overlap:
        log.warning(str(overlap))
    elif overlap.captions:
        log.info(str(overlap))


def _read_split(config: Config, world: World, name: str, split: str, files: SplitFiles, log: RunLog) -> Split:
    """Read a split: its examples, where their frames are, and the videos that are missing there.

    Raises `UserError` if videos are missing without `--allow_missing`. With it, the examples leave them out.
    """
    examples = read_examples(name, split, language=config.language, files=files)
    if not examples.num_captions:
        raise UserError(f"{files.annotations}: no captions for the {split} split of {name}")
    if world.is_main:
        _log_remarks(config, name, split, files, log)
        shown = "val" if split == VALIDATION else split
        log.info(describe_split(shown_name(name, files), shown, examples))
        mismatch = name_mismatch(name, files.list, num_videos=examples.num_videos)
        if mismatch:
            log.warning(mismatch)
        frames = dataset_spec(name).frames
        if frames is not None and config.max_frames < frames:
            log.info(f"papers take {frames} frames of a clip of {name}: --max_frames {frames}")
    found = None
    if world.is_main:
        found = find_videos(config, name, files, examples, log, evaluates=split not in TRAINING)
    present, missing, store = world.broadcast(found)
    if missing and not config.allow_missing:
        raise UserError(absent_videos(store.path, missing, how_to_store(name, files)))
    if not present.num_videos:
        raise UserError(
            f"{store.path}: holds none of the {missing.total} videos of the {split} split of {name}"
        )
    return present, store, missing


def _log_remarks(config: Config, name: str, split: str, files: SplitFiles, log: RunLog) -> None:
    """Log what a file says of itself, once if training and test are in the same one."""
    if config.is_training and split not in TRAINING and not files.whole:
        return
    remarks = dataset_spec(name).remarks(files, config.language)
    for line in remarks.lines:
        log.info(line)
    for warning in remarks.warnings:
        log.warning(warning)


def absent_videos(path: Path, missing: MissingVideos, command: str = "") -> str:
    """The error message for videos that the store or folder at `path` lacks. `command` adds them."""
    add = f"add them ({command})" if command else "add them"
    failures = path / FAILURES_FILE
    why = f"; {failures} says why" if failures.is_file() else ""
    return f"{path}: {missing}{why}; {add}, or continue without them (--allow_missing)"


def _dataset(
    config: Config,
    world: World,
    examples: Examples,
    store: FrameSource,
    spec: InputSpec,
    *,
    name: str,
    split: str,
    view: str,
) -> VideoTextDataset:
    return VideoTextDataset(
        examples,
        store,
        spec.tokenizer,
        view=view,
        frame_sample_len=config.frame_sample_len,
        first_seconds=dataset_spec(name).first_seconds,
        seed=config.seed,
        **sample_settings(config, world, spec, name=name, split=split),
    )


def sample_settings(
    config: Config, world: World, spec: InputSpec, *, name: str, split: str
) -> dict[str, Any]:
    """The settings of a `SampleMaker` for a split of a data set."""
    asked = config.max_words
    made = dataset_spec(name).split(split)
    return {
        "max_words": spec.words(asked, made.words),
        "max_tag_words": None if made.tag_words is None else spec.words(asked, made.tag_words),
        "max_frames": config.max_frames,
        "frame_sample": config.frame_sample,
        "duration_factor": made.duration_factor,
        "image_size": spec.image_size,
        "augment": config.augment_per if made.augments else None,
        # Colours are changed on the device in batches; on a CPU by the workers, of which there are several.
        "colours_here": world.device.type == "cpu",
        "scaled_decoding": config.decode_scale == "auto",
        "encoded": config.decode_on == "gpu",
        "mlm": split == "pretrain" and config.weight_MLM > 0,
    }
