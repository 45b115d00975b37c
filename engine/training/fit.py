"""The epochs of a run: train, save, evaluate, from the beginning or from a saved state."""

from __future__ import annotations

import dataclasses
from itertools import filterfalse
from pathlib import Path
from typing import Any

from torch import nn

from engine.checkpoint.random_state import restore_random_state
from engine.checkpoint.resume import Resumed, compare_data, describe_data
from engine.checkpoint.state_writer import GO_ON, SavingHooks, StateWriter
from engine.checkpoint.states import list_states, remove_leftovers
from engine.checkpoint.weights import checkpoint_path, read_state, save_state
from engine.config import Config
from engine.data import TrainingData
from engine.distributed.sharding import full_state, load_full_state
from engine.distributed.world import World
from engine.logs.metrics_jsonl import Result, drop_results_after, is_final
from engine.logs.run_log import RunLog
from engine.process.signals import StopRequest
from engine.training.optimizer import BertAdam, build_optimizer, load_optimizer_state, optimizer_state
from engine.training.selection import CHOOSE_BY, Selection, choose, describe, write_best
from engine.training.trainer import Counters, Trainer, steps_per_epoch
from modules.dual_encoder import DualEncoder

KEPT = ("epoch", CHOOSE_BY, "checkpoint")  # of a result, in the state


class Fit:
    """One training run. `over_ranks` is `model` as the trainer calls it: by itself, or wrapped.

    `results` holds what each evaluated epoch gave on the list to choose on, oldest first; `reported` says
    whether the chosen one is evaluated on the test list.
    """

    def __init__(
        self,
        config: Config,
        model: DualEncoder,
        train: TrainingData,
        *,
        over_ranks: nn.Module,
        world: World,
        log: RunLog,
        stop: StopRequest,
        resumed: Resumed,
    ) -> None:
        self.config = config
        self.model = model
        self.train = train
        self.world = world
        self.log = log
        self.stop = stop
        self.resumed = resumed
        self.output_dir = Path(config.output_dir)
        self.data = world.broadcast(describe_data(train.dataset.examples) if world.is_main else None)
        compare_data(self.data, resumed)
        self.steps_per_epoch = steps_per_epoch(
            len(train.loader), accumulation=config.gradient_accumulation_steps
        )
        self.optimizer = _optimizer(config, model, total_steps=config.epochs * self.steps_per_epoch)
        self.saving = SavingHooks(
            config,
            world=world,
            log=log,
            stop=stop,
            writer=self._state_writer(),
            contents=self._contents,
            steps_per_epoch=self.steps_per_epoch,
        )
        self.trainer = self._trainer(over_ranks)
        self.results: list[Result] = []
        self.reported = False
        if resumed.path is None and world.is_main:  # that of another run
            (self.output_dir / "best.json").unlink(missing_ok=True)
        self._restore()

    def run(self, selection: Selection) -> None:
        """All epochs that are still to be done, then the chosen one on the test list."""
        first = self.resumed.position
        self._restore_random_state()
        self.resumed.release()
        try:
            for epoch in range(first.epoch, self.config.epochs):
                done = first.step if epoch == first.epoch else 0
                self._train_epoch(epoch, done)
                evaluated = any(result["epoch"] == epoch for result in self.results)
                if selection.after_epochs and not evaluated:
                    self._evaluate(epoch, selection)
            self.saving.finish()
            if not self.reported:
                self._report(selection)
        finally:
            self.saving.close()

    def _train_epoch(self, epoch: int, done: int) -> None:
        """Train what is left of the epoch after `done` steps, and save it."""
        if done < self.steps_per_epoch:
            self.train.sampler.set_epoch(epoch, start_batch=done * self.config.gradient_accumulation_steps)
            self.trainer.train_epoch(epoch, first_step=done)
            self.saving.save(epoch, self.steps_per_epoch)
        weights = full_state(self.model, keep=self.world.is_main)
        self.saving.on_main(lambda: save_state(weights, checkpoint_path(self.output_dir, epoch)))
        self.saving.finish()

    def _evaluate(self, epoch: int, selection: Selection) -> None:
        """The list to choose on, after an epoch."""
        path = checkpoint_path(self.output_dir, epoch)
        what = f"while evaluating epoch {epoch + 1}, whose training is saved; {GO_ON}"
        with self.stop.interruptible(what, saved=True):
            values = selection.evaluate(self.model, epoch=epoch, checkpoint=path)
        self._remember({"epoch": epoch, "checkpoint": str(path), **values})
        self._write_best(epoch=self._chosen(), value=max(result[CHOOSE_BY] for result in self.results))

    def _report(self, selection: Selection) -> None:
        """The chosen epoch on the test list."""
        epoch, config = self._chosen(), self.config
        path = self._weights_of(epoch)
        what = f"while evaluating the test list, with the training done and saved; {GO_ON}"
        with self.stop.interruptible(what, saved=True):
            if epoch != config.epochs - 1:
                load_full_state(self.model, read_state(path))
            values = selection.report(self.model, epoch=epoch, checkpoint=path)
        if not self.results:
            self._write_best(epoch=epoch, value=values[CHOOSE_BY])
        self.log.info(
            f"reported: epoch {epoch + 1} of {config.epochs}, test {CHOOSE_BY} {values[CHOOSE_BY]:.1f}; "
            f"chosen: {describe(config.select_on)}; {path}"
        )

    def _weights_of(self, epoch: int) -> Path:
        """The file of an epoch's weights; a run that went on in another folder left earlier ones behind."""
        here = checkpoint_path(self.output_dir, epoch)
        known = [Path(result["checkpoint"]) for result in self.results if result["epoch"] == epoch]
        return next((path for path in known if not here.is_file()), here)

    def _remember(self, result: Result) -> None:
        self.results.append({name: result[name] for name in KEPT})
        if self.saving.writer is not None:
            self.saving.writer.protected = {(self._chosen() + 1) * self.steps_per_epoch}

    def _chosen(self) -> int:
        """The epoch to report, of those evaluated so far."""
        return choose(self.results, select_on=self.config.select_on, epochs=self.config.epochs)

    def _write_best(self, *, epoch: int, value: float) -> None:
        self.saving.on_main(
            lambda: write_best(self.output_dir, epoch=epoch, value=value, select_on=self.config.select_on)
        )

    def _state_writer(self) -> StateWriter | None:
        if not self.world.is_main:
            return None
        remove_leftovers(self.output_dir)
        own = self.resumed.own_states(self.output_dir)
        others = [path for path in list_states(self.output_dir) if path not in own]
        if others:
            self.log.warning(
                f"{others[0].name} is of another run (no --resume): the first save of this run deletes it"
            )
        return StateWriter(self.output_dir, keep=self.config.keep, own=own)

    def _trainer(self, over_ranks: nn.Module) -> Trainer:
        config = self.config
        return Trainer(
            over_ranks,
            self.optimizer,
            self.train.loader,
            world=self.world,
            log=self.log,
            precision=config.precision,
            accumulation=config.gradient_accumulation_steps,
            grad_cache=config.grad_cache,
            n_display=config.n_display,
            epochs=config.epochs,
            name_of=self.train.name_of,
            requested=self.train.sampler.samples_of,
            log_scalars=self.model.log_scalars,
            max_bad_steps=config.max_bad_steps,
            max_bad_samples=config.max_bad_samples,
            hooks=self.saving,
        )

    def _contents(self) -> dict[str, Any]:
        """The parts of a state that are not where the run stands. Collective."""
        return {
            "model": full_state(self.model, keep=self.world.is_main),
            "optimizer": optimizer_state(self.model, self.optimizer),
            "scaler": self.trainer.scaler.state_dict(),
            "counters": {**dataclasses.asdict(self.trainer.counters), "model": self.model.extra_state()},
            "results": list(self.results),
            "data": self.data,
        }

    def _restore(self) -> None:
        """Put everything but the weights, which came with the model, where the saved run had it."""
        if self.config.resume is None:
            return
        position, state = self.resumed.position, self.resumed.state
        complete = self.resumed.path is not None and position.step == self.steps_per_epoch
        ended = complete and position.epoch == self.config.epochs - 1
        lines: list[Result] = []
        if self.world.is_main:
            self.log.truncate_steps(self.resumed.global_step)
            last = position.epoch if complete else position.epoch - 1
            lines = drop_results_after(self.output_dir / "metrics.jsonl", last, ended=ended)
        lines = self.world.broadcast(lines)
        if self.resumed.path is None:
            return
        load_optimizer_state(self.model, self.optimizer, state["optimizer"])
        self.trainer.scaler.load_state_dict(state["scaler"])
        counters = dict(state["counters"])
        self.model.load_extra_state(counters.pop("model"))
        self.trainer.counters = Counters(**counters)
        for result in state["results"]:
            self._remember(result)
        # Evaluated after the state was written: its line says so.
        self.reported = any(map(is_final, lines))
        for result in filterfalse(is_final, lines):
            if complete and result["epoch"] == position.epoch and all(name in result for name in KEPT):
                self._remember(result)
        self.log.info(f"going on after epoch {position.epoch + 1} step {position.step}")

    def _restore_random_state(self) -> None:
        """Go on with the saved streams: the last thing before the first step, as building draws too."""
        if self.resumed.path is None:
            return
        states = self.resumed.state["random"]
        if len(states) == self.world.size:
            restore_random_state(states[self.world.rank], self.world.device)


def _optimizer(config: Config, model: nn.Module, *, total_steps: int) -> BertAdam:
    return build_optimizer(
        model,
        lr=config.lr,
        text_lr=config.text_lr,
        coef_lr=config.coef_lr,
        weight_decay=config.weight_decay,
        warmup=config.warmup_proportion,
        total_steps=total_steps,
    )
