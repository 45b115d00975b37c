"""One run of either program, from its settings to its results."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from common.errors import FileError, UserError
from dataloaders.datasets.registry import dataset_spec
from dataloaders.loader import end_workers
from engine.checkpoint.random_state import seed_generators
from engine.checkpoint.resume import Resumed, find_state
from engine.command_line import Remark
from engine.config import Config
from engine.data import (
    Split,
    build_evaluation_data,
    build_training_data,
    read_evaluation_split,
    read_training_split,
)
from engine.distributed.compiling import settle_compile
from engine.distributed.precision import settle_precision
from engine.distributed.sharding import describe_sharding
from engine.distributed.world import World
from engine.distributed.wrapping import wrap
from engine.evaluation.evaluate import evaluate
from engine.evaluation.folder import evaluate_folder
from engine.evaluation.query_bank import build_banks
from engine.frame_sources import frame_cache
from engine.input_files import training_split
from engine.input_spec import InputSpec, input_spec
from engine.loaders import TrainingInput
from engine.logs.run_log import RunLog
from engine.model_setup import build_model
from engine.output_folder import OutputFolder, on_main, save_evaluation_settings
from engine.parameters import parameter_table, parts_of, save_parameters
from engine.process.errors import EndedRank, StoppedBySignal, TrainingStopped, explain
from engine.process.signals import EXIT_AGAIN, NOTHING_TRAINED, StopRequest
from engine.report.run_report import report_evaluation
from engine.shards import build_shard_data, open_shards
from engine.training.chance import LOSS, chance_loss
from engine.training.fit import Fit
from engine.training.selection import Selection, read_list_to_choose_on
from modules.dual_encoder import DualEncoder


def run(config: Config, remarks: Sequence[Remark] = (), *, stop: StopRequest) -> int:
    """Pre-train, fine-tune or evaluate, as `config` says. Returns the exit code."""
    early = partial(stop.interruptible, NOTHING_TRAINED, saved=config.is_training, code=EXIT_AGAIN)
    with early():
        world = World.from_environment(config.local_rank)
    log = None
    output = None
    try:
        with world.sharing_failures():
            with early():
                # What is saved and compared is what was chosen: that is what the numbers depend on.
                precision, choice = settle_precision(config.precision, world)
                config = dataclasses.replace(config, precision=precision)
                output = _claim_output(config, world)
                log = _open_log(config, world)
            log.info(choice)
            for remark in remarks:
                log.remark(remark)
            with frame_cache(config, world, log):
                return _run(config, world, log, stop, output)
    except (StoppedBySignal, TrainingStopped, EndedRank) as reason:
        if log is not None:
            with contextlib.suppress(FileError):  # on a full disk `reason` is what the user must see
                log.warning(str(reason))
        raise
    except Exception as error:
        if log is not None:
            _log_end(error, log, world)
        raise
    finally:
        failed = sys.exc_info()[0] is not None
        try:
            if log is not None:
                log.close()
            if output is not None:
                output.release()
        finally:
            end_workers()
            world.close(failed=failed)


def _run(config: Config, world: World, log: RunLog, stop: StopRequest, output: OutputFolder | None) -> int:
    with stop.interruptible(NOTHING_TRAINED, saved=config.is_training):
        if _evaluates_folder(config):
            return evaluate_folder(config, world, log)
        resumed = find_state(config, world, log)
        # Data come before weights: a missing file is known at once, weights may take minutes to fetch.
        sources = open_shards(config, world, log) if config.is_training and config.shards else None
        from_store = config.is_training and sources is None
        train_split = read_training_split(config, world, log) if from_store else None
        eval_split = _read_evaluated_list(config, world, log)
        seed_generators(config.seed)  # equal initial weights on all ranks
        model = world.first_rank_first(lambda: build_model(_with_weights_of(resumed, config), log))
        seed_generators(config.seed + 1 + world.rank)  # different dropout on each rank
        spec = world.first_rank_first(lambda: input_spec(config, model))
        if config.do_params:
            _report_parameters(config, model, spec, world, log)
            return 0
        model.to(world.device)
        if not config.is_training:
            assert eval_split is not None
            _evaluate(config, model, world, spec, log, eval_split)
            return 0
        train: TrainingInput
        if sources is not None:
            train = build_shard_data(config, world, spec, log, sources, resumed)
        else:
            assert train_split is not None
            train = build_training_data(config, world, spec, log, train_split)
        selection = Selection(config, world, log, spec=spec, train=train, read=eval_split)
        over_ranks = wrap(
            model,
            world,
            fsdp=config.fsdp,
            compiled=settle_compile(config.compile, world, info=log.info, warn=log.warning),
            warn=log.warning,
            cached=config.grad_cache > 0,
            precision=config.precision,
        )
        if config.fsdp:
            line, warnings = describe_sharding(model)
            log.info(line)
            for warning in warnings:
                log.warning(warning)
        fit = Fit(
            config, model, train, over_ranks=over_ranks, world=world, log=log, stop=stop, resumed=resumed
        )
        on_main(world, lambda: _start_training(output, log, resumed=resumed.path is not None))
        _announce(config, world, fit, log)
    fit.run(selection)
    return 0


def _log_end(error: Exception, log: RunLog, world: World) -> None:
    """Write to log.txt why the run ends: the line that the user sees, or the traceback of a bug."""
    reason = str(error) if isinstance(error, UserError) else explain(error)
    if reason is None:
        log.traceback(rank=world.rank)
        return
    with contextlib.suppress(FileError):  # a full disk
        log.ended(reason)


def _evaluates_folder(config: Config) -> bool:
    only_evaluates = config.do_eval and not config.is_training
    return only_evaluates and config.init_model is not None and Path(config.init_model).expanduser().is_dir()


def _read_evaluated_list(config: Config, world: World, log: RunLog) -> Split | None:
    """The list that this run evaluates, if it is read before the model is built."""
    if config.is_training:
        return read_list_to_choose_on(config, world, log)
    return None if config.do_params else read_evaluation_split(config, world, log)


def _evaluate(
    config: Config, model: DualEncoder, world: World, spec: InputSpec, log: RunLog, read: Split
) -> None:
    """--do_eval with one checkpoint, or without one: then the initial weights are evaluated."""
    test = build_evaluation_data(config, world, spec, log, read)
    banks = build_banks(config, world, spec) if config.qb_norm else None
    save_evaluation_settings(config, world)
    evaluation = evaluate(
        config, world, model, test, log, epoch=None, checkpoint=config.init_model, banks=banks
    )
    report_evaluation(config, evaluation, world, log)


def _with_weights_of(resumed: Resumed, config: Config) -> Config:
    """`config` with the resumed state as its checkpoint: a resumed run needs no other weights."""
    return dataclasses.replace(config, init_model=str(resumed.path)) if resumed.path else config


def _claim_output(config: Config, world: World) -> OutputFolder | None:
    """The output folder on rank 0, None on other ranks. Collective; raises `UserError` on all ranks."""
    claimed: list[OutputFolder] = []
    on_main(world, lambda: claimed.append(OutputFolder(config)))
    return claimed[0] if claimed else None


def _open_log(config: Config, world: World) -> RunLog:
    """Open the log. Raises `UserError` on all ranks where rank 0 cannot, so that no rank waits for it."""
    logs: list[RunLog] = []

    def open_log() -> None:
        logs.append(
            RunLog(
                Path(config.output_dir),
                active=world.is_main,
                logdir=config.logdir,
                wandb=config.wandb,
                config=dataclasses.asdict(config),
                trains=config.is_training,
            )
        )

    on_main(world, open_log)
    if not logs:
        open_log()
    if world.failures is not None:
        world.failures.warn = logs[0].warning
    return logs[0]


def _start_training(output: OutputFolder | None, log: RunLog, *, resumed: bool) -> None:
    assert output is not None
    message = output.start_training(resumed=resumed)
    if message:
        log.warning(message)


def _announce(config: Config, world: World, fit: Fit, log: RunLog) -> None:
    """Log the parameter groups, the number of steps and the batch."""
    for group in fit.optimizer.param_groups:
        parameters = sum(p.numel() for p in group["params"])
        log.info(
            f"{group['name']}: {parameters:,} parameters, lr {group['lr']:.2e}, "
            f"weight decay {group['weight_decay']:g}"
        )
    log.info(
        f"{config.epochs} epochs, {fit.optimizer.total_steps:,} steps; "
        f"batch {config.batch_size} = {world.size} ranks x "
        f"{config.batch_size // world.size // config.gradient_accumulation_steps} clips x "
        f"{config.gradient_accumulation_steps} passes; {config.precision} on {world.device.type}"
    )
    chance = chance_loss(config)
    if chance is not None:
        log.info(f"chance: {LOSS} {chance:.2f}. Training works if it falls below (docs/WATCHING.md)")


def _report_parameters(
    config: Config, model: DualEncoder, spec: InputSpec, world: World, log: RunLog
) -> None:
    """--do_params: log the table of parameters and write it to OUTPUT_DIR/parameters.json."""
    if not world.is_main:
        return
    frames = config.max_frames
    words = spec.words(config.max_words, dataset_spec(config.dataset).split(training_split(config)).words)
    parts = parts_of(model, frames=frames, words=words)
    for line in parameter_table(parts, frames=frames, words=words):
        log.info(line)
    save_parameters(parts, Path(config.output_dir) / "parameters.json", frames=frames, words=words)
