"""The whole program, top to bottom, for both entry scripts."""

from __future__ import annotations

import inspect
import io
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from engine.checkpoint import checkpoint_path, group_of, save_state
from engine.config import Config, parse_config
from engine.data import (
    EvaluationData,
    TrainingData,
    build_evaluation_data,
    build_training_data,
    input_spec,
    report_leaks,
)
from engine.distributed import World, is_lost_rank
from engine.evaluator import Evaluator
from engine.log import RunLog
from engine.metrics import PROTOCOL, format_metrics
from engine.model_setup import build_model
from engine.optimizer import BertAdam, build_optimizer
from engine.trainer import Trainer, TrainingStopped, steps_per_epoch
from modules.clip_towers import MAX_LOGIT_SCALE
from modules.dual_encoder import DualEncoder


def program(name: str, argv: Sequence[str] | None) -> int:
    """Run `name` with `argv`. Returns the exit code: 0 done, 1 stopped in training, 2 bad input."""
    _print_any_text()
    try:
        config, remarks = parse_config(argv, program=name)
        run(config, remarks)
    except TrainingStopped as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError, ImportError) as error:
        print(f"{name}: error: {_one_line(error)}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if not is_lost_rank(error):
            raise
        print(f"{name}: stopped: another rank ended, which says why", file=sys.stderr)
        return 1
    return 0


def _print_any_text() -> None:
    """A Chinese path or caption in a message must not end a run on a terminal of another encoding."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _one_line(error: BaseException) -> str:
    """The message alone; of an error in a loader process, which comes with its traceback, the last line."""
    lines = str(error).strip().splitlines()
    if len(lines) > 1 and "DataLoader worker" in lines[0]:
        return lines[-1].partition(": ")[2]
    return " ".join(lines)


def run(config: Config, remarks: Sequence[str] = ()) -> None:
    """One run: pre-training, fine-tuning or evaluation, as `config` says."""
    world = World.from_environment(config.local_rank)
    log = None
    try:
        log = _open_output(config, world)
        for remark in remarks:
            log.info(remark)
        torch.manual_seed(config.seed)  # the same first weights on every rank
        model = world.main_first(lambda: build_model(config, log))
        torch.manual_seed(config.seed + 1 + world.rank)  # but not the same dropout
        spec = world.main_first(lambda: input_spec(config, model))
        train = build_training_data(config, world, spec, log) if config.is_training else None
        test = (
            build_evaluation_data(config, world, spec, log) if config.is_training or config.do_eval else None
        )
        if train and test and world.is_main:
            report_leaks(train.dataset.examples, test.examples, log)
        model.to(world.device)
        if config.do_params or test is None:
            _report_parameters(model, log)
            return
        evaluator = build_evaluator(config, world, test, log)
        if train is None:
            _evaluate(config, model, evaluator, test, log, epoch=None, checkpoint=config.init_model)
        else:
            _train(config, model, train, evaluator, test, world=world, log=log)
    finally:
        if log is not None:
            log.close()
        world.close()


def _open_output(config: Config, world: World) -> RunLog:
    """Make OUTPUT_DIR, save the configuration there, open the log.

    Raises `ValueError` naming the flag if that cannot be, and on every rank: nobody waits for rank 0.
    """
    folder = Path(config.output_dir)
    problem: str | None = None
    try:
        if world.is_main:
            folder.mkdir(parents=True, exist_ok=True)
            config.save(folder / "config.json")
        log = RunLog(folder, active=world.is_main, logdir=config.logdir)
    except OSError as error:
        problem = f"--output_dir {folder}: cannot be written ({error.strerror})"
    except (ValueError, ImportError) as error:
        problem = str(error)
    problem = world.broadcast(problem)
    if problem:
        raise ValueError(problem)
    return log


def build_evaluator(config: Config, world: World, data: EvaluationData, log: RunLog) -> Evaluator:
    return Evaluator(
        videos=data.videos,
        captions=data.captions,
        video_of_caption=data.examples.video_of_caption,
        world=world,
        log=log,
        use_frame_fea=config.use_frame_fea,
        max_frames=config.max_frames,
        top_frames=config.top_frames,
        logit_scale=MAX_LOGIT_SCALE,
        precision=config.precision,
    )


def _train(
    config: Config,
    model: DualEncoder,
    train: TrainingData,
    evaluator: Evaluator,
    test: EvaluationData,
    *,
    world: World,
    log: RunLog,
) -> None:
    """All epochs: train, save, evaluate; says the best R@1 at the end."""
    steps = config.epochs * steps_per_epoch(
        len(train.loader), accumulation=config.gradient_accumulation_steps
    )
    optimizer = build_optimizer(
        model,
        lr=config.lr,
        text_lr=config.text_lr,
        coef_lr=config.coef_lr,
        weight_decay=config.weight_decay,
        warmup=config.warmup_proportion,
        total_steps=steps,
    )
    trainer = Trainer(
        _over_ranks(model, world),
        optimizer,
        train.loader,
        world=world,
        log=log,
        precision=config.precision,
        accumulation=config.gradient_accumulation_steps,
        n_display=config.n_display,
        epochs=config.epochs,
        name_of=train.name_of,
    )
    _announce(config, world, optimizer, steps=steps, log=log)
    best: tuple[float, str] | None = None
    for epoch in range(config.epochs):
        train.sampler.set_epoch(epoch)
        trainer.train_epoch(epoch)
        path = checkpoint_path(Path(config.output_dir), epoch)
        if world.is_main:
            save_state(model.state_dict(), path)
        values = _evaluate(config, model, evaluator, test, log, epoch=epoch, checkpoint=str(path))
        best = max(best or (-1.0, ""), (values["t2v/R@1"], str(path)), key=lambda pair: pair[0])
    assert best is not None
    log.info(f"best t2v/R@1 {best[0]:.1f}: {best[1]}")


def _over_ranks(model: nn.Module, world: World) -> nn.Module:
    if world.size == 1:
        return model
    devices = [world.device.index] if world.device.type != "cpu" else None
    return DistributedDataParallel(
        model, device_ids=devices, gradient_as_bucket_view=True, **_no_buffer_sync()
    )


def _no_buffer_sync() -> dict[str, Any]:
    # Queues and BatchNorm statistics are equal on all ranks by construction: sending them at every step
    # would cost more than the gradients do. Newer torch has another name for the switch.
    parameters = inspect.signature(DistributedDataParallel.__init__).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"
    return {name: False}


def _evaluate(
    config: Config,
    model: DualEncoder,
    evaluator: Evaluator,
    test: EvaluationData,
    log: RunLog,
    *,
    epoch: int | None,
    checkpoint: str | None,
) -> dict[str, float]:
    """Evaluate, say the result and append it to metrics.jsonl."""
    values = evaluator.evaluate(model)
    for line in format_metrics(values):
        log.info(f"{test.dataset} {line}")
    counts = test.counts()
    if not counts["comparable"]:
        log.warning(f"evaluated {counts['videos']} of {counts['videos_of_benchmark']} videos: not comparable")
    about = {"epoch": epoch, "dataset": test.dataset, "language": config.language, "checkpoint": checkpoint}
    log.result({**about, **counts, "protocol": PROTOCOL, **values})
    log.scalars(values, step=0 if epoch is None else epoch)
    return values


def _announce(config: Config, world: World, optimizer: BertAdam, *, steps: int, log: RunLog) -> None:
    """What is about to happen."""
    for group in optimizer.param_groups:
        count = sum(p.numel() for p in group["params"])
        log.info(
            f"{group['name']}: {count:,} parameters, lr {group['lr']:.2e}, "
            f"weight decay {group['weight_decay']:g}"
        )
    log.info(
        f"{config.epochs} epochs, {steps:,} steps; batch {config.batch_size} = {world.size} ranks x "
        f"{config.batch_size // world.size // config.gradient_accumulation_steps} clips x "
        f"{config.gradient_accumulation_steps} passes; {config.precision} on {world.device.type}"
    )


def _report_parameters(model: nn.Module, log: RunLog) -> None:
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        counts[group_of(name)] += parameter.numel()
    for group, count in counts.items():
        log.info(f"{group}: {count:,} parameters")
    log.info(f"in all: {sum(counts.values()):,} parameters")
