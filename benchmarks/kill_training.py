"""What happens to a training run that is killed, signalled or fed with faults, and what is lost by it.

    python benchmarks/kill_training.py [--kills 5] [--seed 0] [--out table.md]

Toy data, small models, one CPU thread. Every run is a forked process, killed from outside at random moments
of a phase, which it tells through a pipe. After each story the last run goes to its end, and its weights,
optimiser, queues, random streams and step records are compared with those of a run that was never stopped.
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import torch  # noqa: E402

from benchmarks import kill_hooks, kill_ranks, kill_setup  # noqa: E402
from benchmarks.kill_setup import Toy, difference, resume_step, steps_recorded  # noqa: E402

STEPS_AN_EPOCH = 6
SAVE_STEPS = 2
WHERE = {
    "start": "while starting",
    "step": "between and in steps",
    "save": "while a state is written",
    "evaluate": "while evaluating",
    "between epochs": "after an evaluation",
}
RUN_LIMIT_S = 240.0


@dataclass
class Outcome:
    """One line of the table."""

    event: str
    happened: str
    lost: str
    equal: str


@dataclass
class Run:
    """A forked run: its process, and the end of the pipe on which it names its phases."""

    pid: int
    phases: int
    ended: int | None = None
    seen: list[str] = field(default_factory=list)

    def wait_for(self, phase: str, count: int) -> bool:
        """Read until `phase` was named `count` times; False where the run ended before."""
        while self.seen.count(phase) < count:
            letter = os.read(self.phases, 1)
            if not letter:
                return False
            self.seen.append(kill_hooks.PHASE_OF[letter])
        return True

    def exit_code(self) -> int:
        """Wait for the end; negative for a signal."""
        end = time.monotonic() + RUN_LIMIT_S
        while self.ended is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.ended = os.waitstatus_to_exitcode(status)
                os.close(self.phases)
            elif time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
            else:
                time.sleep(0.01)
        return self.ended


class Stories:
    """All events on one toy data set; `whole` is the run that was never stopped."""

    def __init__(self, folder: Path, *, kills: int, seed: int) -> None:
        self.folder = folder
        self.toy = Toy.make(folder / "toy")
        self.kills = kills
        self.random = random.Random(seed)
        self.whole = folder / "whole"
        self.seconds_to_first_step = 1.0
        self.clean_run()

    def clean_run(self) -> None:
        run = self.start(self.whole)
        begin = time.monotonic()
        assert run.wait_for("step", 1)
        self.seconds_to_first_step = time.monotonic() - begin
        while run.wait_for("step", run.seen.count("step") + 1):
            pass
        assert run.exit_code() == 0, self.said(self.whole)

    def start(
        self, out: Path, *flags: str, fault: Callable[[], None] | None = None, job: Sequence[str] = ()
    ) -> Run:
        """Fork a run; `fault` is called in the child first."""
        reader, writer = os.pipe()
        out.mkdir(parents=True, exist_ok=True)
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            kill_setup.run_child(out, self.toy.argv(out, *flags, job=job), writer, fault)
        os.close(writer)
        return Run(pid, reader)

    def said(self, out: Path) -> str:
        """The last line that the runs in `out` wrote to stderr."""
        lines = (out / "stderr.txt").read_text(encoding="utf-8").strip().splitlines() or [""]
        return lines[-1]

    def finish(self, out: Path, *flags: str) -> str:
        """Let the run in `out` go on to its end; how it differs from `whole`."""
        run = self.start(out, "--resume", "auto", *flags)
        code = run.exit_code()
        return difference(out, self.whole) if code == 0 else f"ended with {code}: {self.said(out)}"

    def killed_in(self, phase: str) -> Outcome:
        """`kills` times kill -9 in one phase, each time going on from what is there."""
        out = self.folder / f"killed {phase}"
        redone, hit, chains, equal = [], 0, 1, []
        while hit < self.kills:
            run = self.start(out, "--resume", "auto")
            if self._strike(run, phase, first=hit == 0):
                hit += 1
                redone.append(steps_recorded(out) - resume_step(out))
            elif run.exit_code() == 0:  # through before the blow fell: another run
                equal.append(difference(out, self.whole))
                chains += 1
                out = self.folder / f"killed {phase} {chains}"
        equal.append(self.finish(out))
        odd = [answer for answer in equal if answer != "bit for bit"]
        shutil.rmtree(out)
        return Outcome(
            f"kill -9, {WHERE[phase]}: {hit} times",
            f"went on by --resume auto, {chains} run{'s' if chains > 1 else ''} in all",
            f"{max(redone)} steps at most, {sum(redone) / len(redone):.1f} on average",
            odd[0] if odd else "bit for bit",
        )

    def _strike(self, run: Run, phase: str, *, first: bool) -> bool:
        """Kill `run` at a random moment of a phase. False where it had ended by then."""
        if phase == "start" and not first:
            time.sleep(self.random.uniform(0.0, self.seconds_to_first_step))
        else:
            # The first blow of "start" falls later, so that there is a state to go on from.
            named = "step" if phase == "start" else phase
            count = 5 if phase == "start" else self.random.randint(1, 3)
            if not run.wait_for(named, count):
                return False
            time.sleep(self.random.uniform(0.0, kill_hooks.SECONDS[named]))
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
        said = "nothing more" if twice else "; ".join(self.said(out).replace(f"{out}/", "").split("; ")[:1])
        name = f"{number.name} twice" if twice else number.name
        return Outcome(name, f"exit code {code}, {said}", f"{redone} steps", self.finish(out))

    def faulty(self, event: str, fault: Callable[[], None], *flags: str, compare: bool = True) -> Outcome:
        """A run with a fault inside; then, where it ended, one without that goes on."""
        out = self.folder / event.replace(" ", "_")
        run = self.start(out, *flags, fault=fault)
        code = run.exit_code()
        recorded, saved = steps_recorded(out), resume_step(out)
        if code == 0:
            kept = kill_setup.remarks(out)
            return Outcome(event, f"exit code 0, {kept}", "nothing else", kill_setup.all_finite(out))
        said = self.said(out).replace(f"{out}/", "").partition(": ")[2]
        after = self.finish(out) if compare else "-"
        return Outcome(event, f"exit code {code}, {said}", f"{recorded - saved} steps", after)

    def broken_newest(self) -> Outcome:
        out = self.folder / "broken"
        run = self.start(out)
        assert run.wait_for("step", 10)
        os.kill(run.pid, signal.SIGKILL)
        run.exit_code()
        newest = max(out.glob("training_state.*.pt"), key=lambda path: int(path.name.split(".")[1]))
        os.truncate(newest, newest.stat().st_size // 2)
        lost = steps_recorded(out) - resume_step(out)
        equal = self.finish(out)
        log = (out / "log.txt").read_text(encoding="utf-8")
        said = "says so and takes the one before" if f"{newest.name}: truncated" in log else "does not say so"
        return Outcome("newest state cut in half", said, f"{lost} steps", equal)


def stories(toy: Stories) -> Iterator[Outcome]:
    for phase in WHERE:
        yield toy.killed_in(phase)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        yield toy.signalled(number)
    yield toy.signalled(signal.SIGTERM, twice=True)
    yield toy.faulty("disk full while a state is written", kill_hooks.full_disk)
    yield toy.broken_newest()
    yield toy.faulty("NaN in one step", lambda: kill_hooks.nan_losses({4}))
    bad = ("--max_bad_steps", "2")
    yield toy.faulty("NaN in every step from the 9th", lambda: kill_hooks.nan_losses(range(9, 99)), *bad)
    store = toy.toy.broken_store()
    broken = ("--train_store", str(store))
    yield toy.faulty("a clip that cannot be read", kill_hooks.nothing, *broken)
    limited = (*broken, "--max_bad_samples", "0")
    yield toy.faulty("the same with --max_bad_samples 0", kill_hooks.nothing, *limited, compare=False)
    yield from kill_ranks.stories(toy)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=5, help="kill -9 in each phase [5]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="write the table to this file too")
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "| event | what happened | lost | the finished run against one never stopped |",
        "|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for outcome in stories(Stories(Path(folder), kills=given.kills, seed=given.seed)):
            lines.append(f"| {outcome.event} | {outcome.happened} | {outcome.lost} | {outcome.equal} |")
            print(lines[-1], flush=True)
    if given.out:
        Path(given.out).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
