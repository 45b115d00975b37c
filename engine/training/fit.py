"""The epochs of a run: train, save and evaluate, from the beginning or from a saved state."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from itertools import filterfalse
from pathlib import Path
from typing import Any

from torch import nn

from engine.checkpoint.files import checkpoint_path, save_state
from engine.checkpoint.random_state import restore_random_state
from engine.checkpoint.resume import Resumed, compare_data
from engine.checkpoint.state_writer import HOW_TO_RESUME, SavingHooks, StateWriter
from engine.checkpoint.states import list_states
from engine.config import Config
from engine.distributed.world import World
from engine.loaders import TrainingInput
from engine.logs.metrics_jsonl import Result, drop_results_after, is_final
from engine.logs.run_log import RunLog
from engine.process.signals import StopRequest
from engine.training.chance import chance_loss
from engine.training.optimizer import BertAdam, build_optimizer, load_optimizer_state, optimizer_state
from engine.training.saved_weights import SavedWeights
from engine.training.selection import CHOOSE_BY, Selection, choose, describe, write_best
from engine.training.trainer import Counters, Trainer, steps_per_epoch
from modules.dual_encoder import DualEncoder

RESULT_KEYS = ("epoch", CHOOSE_BY, "checkpoint")  # what the state keeps of a result


class Fit:
    """One training run. `over_ranks`: what the trainer calls, `model` itself or `model` wrapped for ranks.

    `results` holds the result of each evaluated epoch on the list that the checkpoint is chosen by, oldest
    first. `reported`: whether the chosen epoch is evaluated on the test list.
    """

    def __init__(
        self,
        config: Config,
        model: DualEncoder,
        train: TrainingInput,
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
        self.data = world.broadcast(train.describe() if world.is_main else None)
        compare_data(self.data, resumed)
        self.weights = SavedWeights(model, ema=config.ema)
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
        self._restore()
        what_is_saved = self.weights.describe()
        if what_is_saved:
            log.info(what_is_saved)

    def run(self, selection: Selection) -> None:
        """Train the epochs that are not done yet, then evaluate the chosen one on the test list."""
        start = self.resumed.position
        self._restore_random_state()
        self.resumed.release()
        try:
            for epoch in range(start.epoch, self.config.epochs):
                self._train_epoch(epoch, start.step if epoch == start.epoch else 0)
                evaluated = any(result["epoch"] == epoch for result in self.results)
                if selection.after_epochs and not evaluated:
                    self._evaluate(epoch, selection)
            self.saving.finish()
            if not self.reported:
                self._report(selection)
        finally:
            self.saving.close()

    def _train_epoch(self, epoch: int, steps_done: int) -> None:
        """Train the rest of an epoch after `steps_done` steps; save the state and the weights."""
        if steps_done < self.steps_per_epoch:
            start_batch = steps_done * self.config.gradient_accumulation_steps
            self.train.sampler.set_epoch(epoch, start_batch=start_batch)
            self.trainer.train_epoch(epoch, first_step=steps_done)
            self.train.end_epoch(self.world, self.log)
            self.saving.save(epoch, self.steps_per_epoch)
        with self.weights.as_saved():
            checkpoint = self.weights.checkpoint(keep=self.world.is_main)
            self.saving.on_main(lambda: save_state(checkpoint, checkpoint_path(self.output_dir, epoch)))
        self.saving.finish()

    def _evaluate(self, epoch: int, selection: Selection) -> None:
        """Evaluate an epoch on the list that the checkpoint is chosen by."""
        path = checkpoint_path(self.output_dir, epoch)
        what = f"while evaluating epoch {epoch + 1}, whose training is saved; {HOW_TO_RESUME}"
        with self.stop.interruptible(what, saved=True), self.weights.as_saved():
            values = selection.evaluate(self.model, epoch=epoch, checkpoint=path)
        self._remember({"epoch": epoch, "checkpoint": str(path), **values})
        self._write_best(epoch=self._chosen(), value=max(result[CHOOSE_BY] for result in self.results))

    def _report(self, selection: Selection) -> None:
        """Evaluate the chosen epoch on the test list."""
        epoch, config = self._chosen(), self.config
        path = self._weights_of(epoch)
        what = f"while evaluating the test list, with the training done and saved; {HOW_TO_RESUME}"
        is_last = epoch == config.epochs - 1
        as_saved = self.weights.as_saved() if is_last else contextlib.nullcontext()
        with self.stop.interruptible(what, saved=True), as_saved:
            if not is_last:
                self.weights.load_checkpoint(path)
            values = selection.report(self.model, epoch=epoch, checkpoint=path)
        if not self.results:
            self._write_best(epoch=epoch, value=values[CHOOSE_BY])
        self.log.info(
            f"reported: epoch {epoch + 1} of {config.epochs}, test {CHOOSE_BY} {values[CHOOSE_BY]:.1f}; "
            f"chosen: {describe(config.select_on)}; {path}"
        )

    def _weights_of(self, epoch: int) -> Path:
        """The file with the weights of an epoch. A run resumed in another folder has older ones elsewhere."""
        path = checkpoint_path(self.output_dir, epoch)
        evaluated = [Path(result["checkpoint"]) for result in self.results if result["epoch"] == epoch]
        return evaluated[0] if evaluated and not path.is_file() else path

    def _remember(self, result: Result) -> None:
        self.results.append({name: result[name] for name in RESULT_KEYS})
        if self.saving.writer is not None:
            self.saving.writer.protected = {(self._chosen() + 1) * self.steps_per_epoch}

    def _chosen(self) -> int:
        """The epoch to report, by the results so far."""
        return choose(self.results, select_on=self.config.select_on, epochs=self.config.epochs)

    def _write_best(self, *, epoch: int, value: float) -> None:
        self.saving.on_main(
            lambda: write_best(self.output_dir, epoch=epoch, value=value, select_on=self.config.select_on)
        )

    def _state_writer(self) -> StateWriter | None:
        if not self.world.is_main:
            return None
        earlier = self.resumed.earlier_states(self.output_dir)
        others = [path for path in list_states(self.output_dir) if path not in earlier]
        if others:
            self.log.warning(
                f"{others[0].name} is of a later step than {self.resumed.path}; the first save of this run "
                "deletes it"
            )
        return StateWriter(self.output_dir, keep=self.config.keep, earlier=earlier)

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
            after_step=self.weights.after_step,
            max_bad_steps=config.max_bad_steps,
            # Shards have a limit of their own, a share of the epoch.
            max_bad_samples=config.max_bad_samples if config.shards is None else sys.maxsize,
            hooks=self.saving,
            chance=chance_loss(config),
        )

    def _contents(self) -> dict[str, Any]:
        """The parts of a state that `SavingHooks` does not add itself, as copies. Collective."""
        keep = self.world.is_main
        return {
            **self.weights.contents(keep=keep),
            "optimizer": optimizer_state(self.model, self.optimizer, keep=keep),
            "scaler": self.trainer.scaler.state_dict(),
            "counters": {**dataclasses.asdict(self.trainer.counters), "model": self.model.extra_state()},
            "results": list(self.results),
            "data": self.data,
        }

    def _restore(self) -> None:
        """Restore the saved run and its log files, except the model's weights: `run` has loaded them."""
        if self.config.resume is None:
            return
        position, state = self.resumed.position, self.resumed.state
        epoch_complete = self.resumed.path is not None and position.step == self.steps_per_epoch
        all_trained = epoch_complete and position.epoch == self.config.epochs - 1
        logged: list[Result] = []
        if self.world.is_main:
            self.log.truncate_steps(self.resumed.global_step)
            last_epoch = position.epoch if epoch_complete else position.epoch - 1
            logged = drop_results_after(self.output_dir / "metrics.jsonl", last_epoch, ended=all_trained)
        logged = self.world.broadcast(logged)
        if self.resumed.path is None:
            return
        self.weights.restore(state)
        load_optimizer_state(self.model, self.optimizer, state["optimizer"])
        self.trainer.scaler.load_state_dict(state["scaler"])
        counters = dict(state["counters"])
        self.model.load_extra_state(counters.pop("model"))
        self.trainer.counters = Counters(**counters)
        for result in state["results"]:
            self._remember(result)
        # The evaluation of an epoch follows the save of its state: only metrics.jsonl has its result.
        self.reported = any(map(is_final, logged))
        for result in filterfalse(is_final, logged):
            of_this_epoch = epoch_complete and result["epoch"] == position.epoch
            if of_this_epoch and all(name in result for name in RESULT_KEYS):
                self._remember(result)
        self.log.info(f"resuming after epoch {position.epoch + 1} step {position.step}")

    def _restore_random_state(self) -> None:
        """Restore the random generators, right before the first step: building the run uses them too."""
        if self.resumed.path is None:
            return
        random_states = self.resumed.state["random"]
        if len(random_states) == self.world.size:
            restore_random_state(random_states[self.world.rank], self.world.device)


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
