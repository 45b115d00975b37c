"""`--shards`: the training set of a run that reads tar shards (dataloaders/tar_shards/)."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from common.errors import UserError
from common.languages import BILINGUAL, languages_of
from dataloaders.datasets.registry import dataset_spec
from dataloaders.examples import ExamplesBuilder
from dataloaders.frame_source import NoFrames
from dataloaders.samples import SampleMaker
from dataloaders.tar_shards.addresses import folder_and_name
from dataloaders.tar_shards.dataset import ShardDataset, TextChoice
from dataloaders.tar_shards.index import Source, open_sources
from dataloaders.tar_shards.loader import ShardLoader, describe_faults
from dataloaders.tar_shards.order import ShardOrder
from dataloaders.tar_shards.raw_samples import RawSample, read_samples
from dataloaders.tar_shards.sample_videos import SampleVideos
from dataloaders.tar_shards.stream import ShardError, ShardStream
from dataloaders.video_text import VideoTextDataset
from engine.checkpoint.resume import Resumed
from engine.config import Config
from engine.data import chosen_protocol, sample_settings
from engine.distributed.world import World
from engine.frame_sources import frame_settings
from engine.input_files import training_split
from engine.input_spec import InputSpec
from engine.inspection import inspect_texts
from engine.loaders import batch_per_rank
from engine.logs.run_log import RunLog
from engine.output_folder import on_main

# Shards that a rank reads at once, if there are as many: its batches then mix samples of that many places.
LEAST_READERS = 4
_INSPECTED = 64  # samples
_FAULTS_OF_A_RANK = 1000  # kinds of faults that are sent to rank 0


@dataclass
class ShardTrainingData:
    """The training set of a run with --shards. `loader` is its sampler too."""

    order: ShardOrder
    loader: ShardLoader

    @property
    def sampler(self) -> ShardLoader:
        return self.loader

    @property
    def examples(self) -> None:
        return None

    def name_of(self, index: int) -> str:
        return self.loader.name_of(index)

    def describe(self) -> dict[str, Any]:
        """The names and sizes of the shards, not where they are; and the number of readers."""
        digest = hashlib.sha256()
        for source in self.order.sources:
            names = [folder_and_name(address)[1] for address in source.addresses]
            digest.update(repr((names, source.samples, source.weight)).encode())
        samples = self.order.samples_per_epoch
        return {"examples": samples, "sha256": digest.hexdigest(), "readers": self.order.readers}

    def end_epoch(self, world: World, log: RunLog) -> None:
        faults: Counter[tuple[str, str]] = Counter()
        for of_rank in world.gather(dict(self.loader.faults.most_common(_FAULTS_OF_A_RANK))):
            faults.update(of_rank)
        if faults:
            log.warning(
                f"shards: {faults.total():,} samples of this epoch could not be used and were replaced: "
                f"{describe_faults(faults)}"
            )


def open_shards(config: Config, world: World, log: RunLog) -> list[Source]:
    """The sources of --shards and their sizes. Collective: rank 0 looks, all raise its `UserError`."""
    assert config.shards is not None
    shards = config.shards
    found: list[Source] = []

    def look() -> None:
        found.extend(
            open_sources(
                shards, config.shard_weights, samples_per_epoch=config.samples_per_epoch, say=log.info
            )
        )

    on_main(world, look)
    return world.broadcast(found)


def build_shard_data(
    config: Config, world: World, spec: InputSpec, log: RunLog, sources: Sequence[Source], resumed: Resumed
) -> ShardTrainingData:
    """Order, dataset and loader of this rank. Raises `UserError`, which names the bad flag."""
    if config.decode_on == "gpu" and world.device.type != "cuda":
        raise UserError("--decode_on gpu: no GPU here; leave it out to decode in the loader processes")
    split = training_split(config)
    settings = sample_settings(config, world, spec, name=config.dataset, split=split)
    use = config.pretrain_text if split == "pretrain" else "both"
    if use != "both":
        settings["max_tag_words"] = None
    samples = SampleMaker(spec.tokenizer, dynamic=config.frame_sample_len == "dynamic", **settings)
    per_rank = batch_per_rank(config, world, sum(source.per_epoch for source in sources))
    order = ShardOrder(
        sources,
        seed=config.seed,
        batch_size=per_rank * world.size,
        readers=_readers(config, world, sources, per_rank, resumed),
        buffer=config.shuffle_buffer,
    )
    each = order.readers // world.size
    workers = min(config.num_thread_reader, each)
    held = sum(source.total for source in sources)
    log.info(
        f"train on {config.dataset} {config.language} from {len(order.addresses):,} shards: {held:,} "
        f"samples, {order.samples_per_epoch:,} an epoch; {order.readers} readers, {each} on each rank"
    )
    if workers < config.num_thread_reader:
        log.warning(
            f"--num_thread_reader {config.num_thread_reader}: {each} readers on a rank keep {workers} busy; "
            f"--shard_readers {config.num_thread_reader * world.size} would use all"
        )
    data = dataset_spec(config.dataset)
    joined = chosen_protocol(config, config.dataset) == "paragraph" and data.split(split).tag_words is None
    dataset = ShardDataset(
        order,
        samples,
        TextChoice(config.language, use, joined=joined),
        readers=range(world.rank * each, (world.rank + 1) * each),
        slots=max(workers, 1),
        videos=SampleVideos(
            frame_settings(config),
            timeout=config.video_timeout,
            first_seconds=data.first_seconds,
        ),
    )
    if world.is_main and config.language != BILINGUAL:
        _inspect(config, spec, settings, order.addresses[0], world, log)
    loader = ShardLoader(
        dataset, workers=workers, most_bad=config.max_bad_share, pin_memory=world.device.type == "cuda"
    )
    return ShardTrainingData(order, loader)


def _readers(config: Config, world: World, sources: Sequence[Source], per_rank: int, resumed: Resumed) -> int:
    """--shard_readers: as given, as in the resumed run, or chosen for the ranks and processes of this one."""
    saved = resumed.state.get("data", {}).get("readers") if resumed.path else None
    readers = config.shard_readers or saved
    if readers is None:
        shards = sum(len(source.addresses) for source in sources)
        each = max(config.num_thread_reader, min(LEAST_READERS, shards // world.size), 1)
        return world.size * min(each, per_rank)
    if readers % world.size:
        what = f"--shard_readers {readers}" if config.shard_readers else f"--resume: {readers} readers"
        raise UserError(f"{what}: cannot be divided by {world.size} ranks")
    return int(readers)


def _inspect(
    config: Config, spec: InputSpec, settings: dict[str, Any], address: str, world: World, log: RunLog
) -> None:
    """Log whether the texts at the start of the first shard fit the model."""
    (language,) = languages_of(config.language)
    builder = ExamplesBuilder()
    stream = ShardStream(address)
    try:
        for number, sample in enumerate(islice(read_samples(stream), _INSPECTED)):
            if isinstance(sample, RawSample):
                for text in sample.texts.captions.get(language, sample.texts.captions.get("", [])):
                    builder.add(str(number), text)
    except ShardError as error:
        log.warning(f"shards: {error}")
    finally:
        stream.close()
    examples = builder.build()
    if examples.num_captions:
        dataset = VideoTextDataset(examples, NoFrames(), spec.tokenizer, view="captions", **settings)
        inspect_texts(config, dataset, world, log)
