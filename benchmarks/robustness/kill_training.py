"""What happens to a training run that is killed, gets a signal or has a fault, and how many steps are lost.

    python benchmarks/robustness/kill_training.py [--kills 5] [--seed 0] [--out table.md]

Toy data, small models, one CPU thread. Every run is a forked process that reports its phases through a pipe
and is killed from outside at a random moment of a phase. After each event a run continues to the end, and its
weights, optimiser, queues, random streams and step records are compared with those of a run that was never
stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

import torch  # noqa: E402

from benchmarks.robustness import kill_hooks, kill_ranks, kill_setup  # noqa: E402
from benchmarks.robustness.kill_runs import Outcome, Run, Runs, last_message  # noqa: E402
from benchmarks.robustness.kill_setup import Toy, difference, resume_step, steps_recorded  # noqa: E402
from common.atomic_files import write_text  # noqa: E402

WHERE = {
    "start": "while starting",
    "step": "between and in steps",
    "save": "while a state is written",
    "evaluate": "while evaluating",
    "between epochs": "after an evaluation",
}


class Events(Runs):
    """All events on one toy data set; `reference` is the run that was never stopped."""

    def __init__(self, folder: Path, *, kills: int, seed: int) -> None:
        super().__init__(folder, Toy.make(folder / "toy"))
        self.kills = kills
        self.random = random.Random(seed)
        self.reference = folder / "reference"
        self.seconds_to_first_step = 1.0
        self._reference_run()

    def _reference_run(self) -> None:
        run = self.start(self.reference)
        begin = time.monotonic()
        assert run.wait_for("step", 1), last_message(self.reference)
        self.seconds_to_first_step = time.monotonic() - begin
        while run.wait_for("step", run.phases.count("step") + 1):
            pass
        assert run.exit_code() == 0, last_message(self.reference)

    def finish(self, out: Path, *flags: str) -> str:
        """Resume the run in `out` to its end; how it differs from the reference."""
        run = self.start(out, "--resume", "auto", *flags)
        code = run.exit_code()
        return difference(out, self.reference) if code == 0 else f"ended with {code}: {last_message(out)}"

    def killed_in(self, phase: str) -> Outcome:
        """`kills` times kill -9 in one phase, each time resumed from the last state."""
        out = self.folder / f"killed {phase}"
        lost, folders, compared = [], 1, []
        while len(lost) < self.kills:
            run = self.start(out, "--resume", "auto")
            if self._kill_at_random(run, phase, first=not lost):
                lost.append(steps_recorded(out) - resume_step(out))
            elif run.exit_code() == 0:  # it ended before it was killed: start again in another folder
                compared.append(difference(out, self.reference))
                folders += 1
                out = self.folder / f"killed {phase} {folders}"
        compared.append(self.finish(out))
        different = [result for result in compared if result != "bit for bit"]
        shutil.rmtree(out)
        return Outcome(
            f"kill -9, {WHERE[phase]}: {len(lost)} times",
            f"continued by --resume auto, {folders} run{'s' if folders > 1 else ''} in all",
            f"{max(lost)} steps at most, {sum(lost) / len(lost):.1f} on average",
            different[0] if different else "bit for bit",
        )

    def _kill_at_random(self, run: Run, phase: str, *, first: bool) -> bool:
        """Kill `run` at a random moment of a phase. False where it had ended before."""
        if phase == "start" and not first:
            time.sleep(self.random.uniform(0.0, self.seconds_to_first_step))
        else:
            # The first kill of "start" comes later, so that there is a state to resume from.
            awaited = "step" if phase == "start" else phase
            count = 5 if phase == "start" else self.random.randint(1, 3)
            if not run.wait_for(awaited, count):
                return False
            time.sleep(self.random.uniform(0.0, kill_hooks.SECONDS[awaited]))
        with contextlib.suppress(ProcessLookupError):
            os.kill(run.pid, signal.SIGKILL)
        return run.exit_code() == -signal.SIGKILL

    def signalled(self, number: signal.Signals, *, twice: bool = False) -> Outcome:
        out = self.folder / f"{number.name}{twice}"
        slow = kill_hooks.slow_steps if twice else None
        run = self.start(out, fault=slow)
        assert run.wait_for("step", 4)
        os.kill(run.pid, number)
        if twice:
            time.sleep(0.1)
            os.kill(run.pid, number)
        code = run.exit_code()
        redone = steps_recorded(out) - resume_step(out)
        message = "nothing more" if twice else last_message(out).replace(f"{out}/", "").split("; ")[0]
        name = f"{number.name} twice" if twice else number.name
        return Outcome(name, f"exit code {code}, {message}", f"{redone} steps", self.finish(out))

    def faulty(self, event: str, fault: Callable[[], None], *flags: str, compare: bool = True) -> Outcome:
        """A run with a fault inside; where that ended it, a run without the fault resumes it."""
        out = self.folder / event.replace(" ", "_")
        run = self.start(out, *flags, fault=fault)
        code = run.exit_code()
        recorded, saved = steps_recorded(out), resume_step(out)
        if code == 0:
            remarks = kill_setup.remarks(out)
            return Outcome(event, f"exit code 0, {remarks}", "nothing else", kill_setup.all_finite(out))
        message = last_message(out).replace(f"{out}/", "").partition(": ")[2]
        compared = self.finish(out) if compare else "-"
        return Outcome(event, f"exit code {code}, {message}", f"{recorded - saved} steps", compared)

    def truncated_state(self) -> Outcome:
        out = self.folder / "broken"
        run = self.start(out)
        assert run.wait_for("step", 10)
        os.kill(run.pid, signal.SIGKILL)
        run.exit_code()
        newest = max(out.glob("training_state.*.pt"), key=lambda path: int(path.name.split(".")[1]))
        os.truncate(newest, newest.stat().st_size // 2)
        lost = steps_recorded(out) - resume_step(out)
        compared = self.finish(out)
        log = (out / "log.txt").read_text(encoding="utf-8")
        warned = f"{newest.name}: truncated" in log
        happened = "a warning, and resumed from the state before" if warned else "NO warning"
        return Outcome("newest state cut in half", happened, f"{lost} steps", compared)


def all_outcomes(events: Events) -> Iterator[Outcome]:
    for phase in WHERE:
        yield events.killed_in(phase)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        yield events.signalled(number)
    yield events.signalled(signal.SIGTERM, twice=True)
    yield events.faulty("disk full while a state is written", kill_hooks.full_disk)
    yield events.truncated_state()
    yield events.faulty("NaN in one step", lambda: kill_hooks.nan_losses({4}))
    bad = ("--max_bad_steps", "2")
    yield events.faulty("NaN in every step from the 9th", lambda: kill_hooks.nan_losses(range(9, 99)), *bad)
    store = events.toy.broken_store()
    broken = ("--train_store", str(store))
    yield events.faulty("a clip that cannot be read", kill_hooks.nothing, *broken)
    limited = (*broken, "--max_bad_samples", "0")
    yield events.faulty(
        "a clip that cannot be read, --max_bad_samples 0", kill_hooks.nothing, *limited, compare=False
    )
    yield from kill_ranks.outcomes(events)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=5, help="kill -9 in each phase [5]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="write the table to this file too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "| event | what happened | lost | the finished run against one never stopped |",
        "|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for outcome in all_outcomes(Events(Path(folder), kills=args.kills, seed=args.seed)):
            lines.append(f"| {outcome.event} | {outcome.happened} | {outcome.lost} | {outcome.compared} |")
            print(lines[-1], flush=True)
    if args.out:
        write_text(Path(args.out), "\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
