"""What the parts of the method are worth, on toy data that anyone can make: docs/EVIDENCE.md.

    python benchmarks/protocol/evidence.py --folder runs/evidence
    python benchmarks/protocol/evidence.py --folder runs/evidence --only heads losses --seeds 1 2
    python benchmarks/protocol/evidence.py --folder runs/short --short           a minute, to try it

Makes the toy data and its frame stores in the folder, then trains every variant of the groups with every
seed. `--jobs` runs go on at once, with one thread each. A run that has results is not run again, so a program
that was stopped goes on where it was. All runs report their last epoch.

Each table has a row for every variant: mean and range of T2V R@1 and R@10 over the seeds, and the mean
difference from the table's first row, seed by seed, with its 95 % interval (Student's t).
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
if __name__ == "__main__":
    import common.early_interrupt  # noqa: F401  (Ctrl-C during the imports that follow)

from benchmarks.protocol.intervals import half_width
from common.arguments import ArgumentParser
from common.atomic_files import write_json, write_text
from common.errors import UserError, run_program

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = {"pretrain": "main_pretrain.py", "train": "main_task_retrieval.py"}
BOTH = ("--use_temp", "--use_frame_fea")
# The model and the rates of scripts/quickstart.sh.
MODEL = (
    *("--clip_model", "toy", "--clip_weights", "none", "--temporal_layers", "2", "--language", "english"),
    *("--max_frames", "6", "--max_words", "24", "--top_frames", "3", "--batch_size_val", "128"),
    *("--frame_sample", "uniform_random", "--num_thread_reader", "0", "--n_display", "50"),
    *("--bootstrap", "0", "--no-report", "--save_steps", "0", "--keep", "1", "--coef_lr", "1"),
)
RATES = ("--lr", "2.5e-3", "--text_lr", "2.5e-3")
TENTH = ("--lr", "2.5e-4", "--text_lr", "2.5e-4")
QUEUE = ("--contrast_num_negative", "512")
METRICS = ("t2v/R@1", "t2v/R@10")


@dataclass(frozen=True)
class Variant:
    """A row of a table: a training of one of `PROGRAMS`.

    `videos`: the first so many training videos; 0: all. `after`: the variant whose weights of the same seed
    it starts from.
    """

    name: str
    job: str
    flags: tuple[str, ...]
    epochs: int
    videos: int = 0
    after: str | None = None

    @property
    def folder(self) -> str:
        return "".join(letter if letter.isalnum() else "_" for letter in self.name)


def _pretrain(name: str, *flags: str, parts: Sequence[str] = BOTH, epochs: int = 3) -> Variant:
    off = tuple(f"--weight_{loss}" for loss in ("FAM", "MLM") if f"--weight_{loss}" not in flags)
    zeros = tuple(part for flag in off for part in (flag, "0"))
    return Variant(name, "pretrain", (*parts, *RATES, *QUEUE, *zeros, *flags), epochs)


def _few(name: str, videos: int, epochs: int, *flags: str, after: str | None = None) -> Variant:
    return Variant(name, "train", (*BOTH, *(flags or RATES)), epochs, videos, after)


def _train(name: str, *flags: str, parts: Sequence[str] = BOTH) -> Variant:
    return Variant(name, "train", (*parts, *RATES, *flags), epochs=6, videos=600)


PRETRAINED = "pre-trained"
HMMC = _train("HMMC's head, softmax of scale 100")
GROUPS: dict[str, tuple[Variant, ...]] = {
    "40 labels": (
        _few("40 videos, from scratch", 40, 40),
        _few("40 videos, after pre-training", 40, 40, after=PRETRAINED),
        _few("the same, a tenth of the rate", 40, 40, *TENTH, after=PRETRAINED),
        _few("the same, both towers frozen", 40, 40, *RATES, "--freeze", "image,text", after=PRETRAINED),
        _few("the same, averaged weights", 40, 40, *RATES, "--ema", "0.98", after=PRETRAINED),
    ),
    "100 labels": (
        _few("100 videos, from scratch", 100, 24),
        _few("100 videos, after pre-training", 100, 24, after=PRETRAINED),
    ),
    "pretraining": (
        _pretrain(PRETRAINED),
        _pretrain("without frames and texts (FTM)", parts=("--use_temp",)),
        _pretrain("without the temporal transformer", parts=("--use_frame_fea",)),
        _pretrain("negatives of the batch, no queue", "--negatives", "batch"),
        _pretrain("with neighbouring frames (FAM)", "--weight_FAM", "0.05"),
        _pretrain("with masked words (MLM)", "--weight_MLM", "0.05"),
    ),
    "heads": (
        HMMC,
        _train("mean of the frames", "--head", "mean", parts=()),
        _train("mean after the temporal transformer", "--head", "mean", parts=("--use_temp",)),
        _train("words with frames (WTI)", "--head", "wti", parts=()),
        _train("text attends to frames (X-Pool)", "--head", "xpool", parts=()),
    ),
    "losses": (
        HMMC,
        _train("with a learned scale", "--learn_logit_scale"),
        _train("with hard negatives, 0.5", "--hard_negatives", "0.5"),
        _train("with the sigmoid loss", "--loss", "sigmoid"),
    ),
}
Results = Mapping[str, Mapping[int, Mapping[str, float]]]  # by variant and seed


@dataclass(frozen=True)
class Run:
    """A variant with one seed, in a folder."""

    variant: Variant
    seed: int
    root: Path
    short: bool

    @property
    def out(self) -> Path:
        return self.folder_of(self.variant.folder)

    def folder_of(self, variant: str) -> Path:
        return self.root / "runs" / f"{variant}.{self.seed}"

    @property
    def metrics(self) -> dict[str, float] | None:
        """The figures of the last epoch; None if the run has not ended."""
        from tools.results.run_folders import read_run

        if not (self.out / "done").is_file():
            return None
        return dict(read_run(self.out, epoch="last").evaluation)

    def argv(self) -> list[str]:
        """The command line of the program, without its name."""
        variant = self.variant
        epochs = 1 if self.short else variant.epochs
        batch = "4" if self.short else "32"
        dataset = "vatex" if variant.job == "pretrain" else "msrvtt"
        flags = [
            *(f"--do_{variant.job}", "--dataset", dataset, "--data_dir", str(self.root / "data"), *MODEL),
            *("--output_dir", str(self.out), "--epochs", str(epochs), "--batch_size", batch),
            *("--seed", str(self.seed), *variant.flags, "--overwrite"),
        ]
        if variant.videos:
            flags += ["--train_list", str(self.root / "data" / f"first_{variant.videos}.csv")]
        if variant.after:
            earlier = self.folder_of(_named(variant.after).folder)
            last = 0 if self.short else _named(variant.after).epochs - 1
            flags += ["--init_model", str(earlier / f"pytorch_model.bin.{last}")]
        return flags


def _named(name: str) -> Variant:
    return next(variant for group in GROUPS.values() for variant in group if variant.name == name)


def chosen_runs(groups: Sequence[str], seeds: Sequence[int], root: Path, *, short: bool) -> list[Run]:
    """The runs of `groups`, those that others start from first, each once."""
    variants = [variant for group in groups for variant in GROUPS[group]]
    earlier = [_named(variant.after) for variant in variants if variant.after]
    ordered = list(dict.fromkeys([*earlier, *variants]))
    return [Run(variant, seed, root, short) for variant in ordered for seed in seeds]


def make_data(root: Path, *, short: bool) -> None:
    """The quickstart's toy data, its stores, and the lists of the first training videos."""
    data = root / "data"
    if (data / "done").is_file():
        return
    root.mkdir(parents=True, exist_ok=True)
    size = "tiny" if short else "default"
    _tool(root, "make_toy_dataset.py", "--out", str(data), "--size", size, "--overwrite")
    for name in ("msrvtt", "vatex"):
        folder = data / name
        paths = ("--video_dir", str(folder / "videos"), "--lmdb_path", str(folder / f"{name}_lmdb"))
        described = ("--json_path", str(folder / "videos.jsonl"), "--num_frames", "12", "--num_workers", "2")
        _tool(root, "frame2lmdb.py", *paths, *described, "--overwrite")
    lines = (data / "msrvtt" / "MSRVTT_train.9k.csv").read_text(encoding="utf-8").splitlines()
    for videos in sorted({v.videos for group in GROUPS.values() for v in group if v.videos}):
        write_text(data / f"first_{videos}.csv", "\n".join(lines[: 1 + videos]) + "\n")
    write_text(data / "done", "")


def _tool(root: Path, program: str, *flags: str) -> None:
    log = root / "data.log"
    with log.open("a", encoding="utf-8") as output:
        command = [sys.executable, str(ROOT / "tools" / program), *flags]
        code = subprocess.run(command, stdout=output, stderr=output, check=False).returncode
    if code:
        raise UserError(f"tools/{program} ended with code {code}: see {log}")


def _in_child(run: Run) -> None:
    """One run in a fork of this process, which has torch loaded. Ends the fork with the run's exit code."""
    from engine.process.signals import StopRequest
    from engine.program import program

    run.out.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{run.out}.log", "w", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        with StopRequest() as stop:
            code = program(PROGRAMS[run.variant.job], run.argv(), stop)
        if not code and stop.number is None:
            write_text(run.out / "done", "")
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(code)


def run_all(runs: Sequence[Run], jobs: int) -> None:
    """Run what has no result yet. Raises `UserError`, which names the log of a run that failed."""
    import torch

    torch.set_num_threads(1)
    waiting = [run for run in runs if run.metrics is None]
    going: dict[multiprocessing.Process, tuple[Run, float]] = {}
    context = multiprocessing.get_context("fork")
    total = len(waiting)
    try:
        while waiting or going:
            ready = [run for run in waiting if _may_start(run, going)]
            if ready and len(going) < jobs:
                run = ready[0]
                waiting.remove(run)
                process: multiprocessing.Process = context.Process(target=_in_child, args=(run,))  # type: ignore[assignment]
                process.start()
                going[process] = run, time.monotonic()
                continue
            multiprocessing.connection.wait([process.sentinel for process in going])
            for process in [process for process in going if not process.is_alive()]:
                run, started = going.pop(process)
                process.join()
                if process.exitcode:
                    raise UserError(f"{run.out.name} ended with code {process.exitcode}: see {run.out}.log")
                done = total - len(waiting) - len(going)
                print(
                    f"{done}/{total} {run.variant.name}, seed {run.seed}: {time.monotonic() - started:.0f} s",
                    flush=True,
                )
    finally:
        for process in going:
            process.terminate()
        for process in going:
            process.join()


def _may_start(run: Run, going: Mapping[multiprocessing.Process, tuple[Run, float]]) -> bool:
    """Whether the weights that it starts from are there."""
    if run.variant.after is None:
        return True
    earlier = Run(_named(run.variant.after), run.seed, run.root, run.short)
    return earlier.metrics is not None


def table(variants: Sequence[Variant], results: Results) -> list[str]:
    """The lines of a group's table."""
    lines = ["| | T2V R@1 | R@10 | R@1 beside the first row | R@10 |", "| --- | ---: | ---: | ---: | ---: |"]
    first = results[variants[0].name]
    for variant in variants:
        own = results[variant.name]
        cells = [_spread([own[seed][metric] for seed in own]) for metric in METRICS]
        for metric in METRICS:
            apart = [own[seed][metric] - first[seed][metric] for seed in own]
            cells.append("" if variant is variants[0] else _interval(apart))
        lines.append(f"| {variant.name} | " + " | ".join(cells) + " |")
    return lines


def _spread(values: Sequence[float]) -> str:
    return f"{_mean(values):.0f} ({min(values):.0f} to {max(values):.0f})"


def _interval(values: Sequence[float]) -> str:
    """Mean and 95 % interval; the mean alone of a single value."""
    mean = f"{_mean(values):+.1f}"
    return mean if len(values) < 2 else f"{mean} ± {half_width(values):.1f}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def main(argv: Sequence[str] | None = None) -> int:
    return run_program("evidence.py", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="data, runs and tables go there")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), help="groups")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=2, help="runs at once")
    parser.add_argument("--short", action="store_true", help="tiny data and one epoch, to try the program")
    args = parser.parse_args(argv)
    if args.jobs < 1 or len(set(args.seeds)) < len(args.seeds):
        raise UserError("--jobs must be at least 1, and --seeds different numbers")
    started = time.monotonic()
    make_data(args.folder, short=args.short)
    runs = chosen_runs(args.only, args.seeds, args.folder, short=args.short)
    run_all(runs, args.jobs)
    results: dict[str, dict[int, dict[str, float]]] = {}
    for run in runs:
        metrics = run.metrics
        assert metrics is not None
        kept = {name: metrics[name] for name in METRICS}
        results.setdefault(run.variant.name, {})[run.seed] = kept
    write_json(args.folder / "evidence.json", results)
    lines = [line for group in args.only for line in ("", f"## {group}", "", *table(GROUPS[group], results))]
    write_text(args.folder / "evidence.md", "\n".join(lines[1:]) + "\n")
    print("\n".join(lines))
    print(f"\n{len(runs)} runs in {args.folder}; this call took {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
