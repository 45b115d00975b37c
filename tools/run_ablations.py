"""Run the method's ablations on the toy data and print a table, or print their commands for the real data.

    run_ablations.py --data_dir toy --out runs/ablations           a short run of every variant
    run_ablations.py --real                                        the commands for CHVTT and MSR-VTT

Pre-training variants are evaluated zero-shot, fine-tuning variants after training, both on MSR-VTT in
English. Variants that already have results are not run again.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Run as a program, only tools/ itself is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
if __name__ == "__main__":
    import common.early_interrupt  # noqa: F401  (Ctrl-C during the imports that follow)

from common.arguments import ArgumentParser
from common.errors import EXIT_USER_ERROR, run_program
from dataloaders.datasets import chvtt, msrvtt


@dataclass(frozen=True)
class Variant:
    """One row of the table: the flags that differ from its base."""

    name: str
    job: str  # "pretrain" or "train"
    flags: tuple[str, ...] = ()
    leaves_out: tuple[str, ...] = ()  # flags of the base that it does not have

    @property
    def folder(self) -> str:
        return f"{self.job}_{self.name}".replace(" ", "_").replace(",", "").replace("-", "_")


def _pretrain(name: str, *flags: str, leaves_out: tuple[str, ...] = ()) -> Variant:
    return Variant(name, "pretrain", flags, leaves_out)


def _train(name: str, *flags: str, leaves_out: tuple[str, ...] = ()) -> Variant:
    return Variant(name, "train", flags, leaves_out)


VARIANTS = (
    _pretrain("base"),
    _pretrain("without FAM", "--weight_FAM", "0"),
    _pretrain("without VTM", "--weight_VTM", "0"),
    _pretrain("without FTM", "--weight_FTM", "0"),
    _pretrain("without MLM", "--weight_MLM", "0"),
    _pretrain("half the queue", "--contrast_num_negative", "half"),
    _pretrain("in-batch negatives", "--negatives", "batch"),
    _pretrain("momentum 0.9", "--contrast_momentum", "0.9"),
    _pretrain("momentum 0.999", "--contrast_momentum", "0.999"),
    _pretrain("temperature 0.03", "--contrast_temperature", "0.03"),
    _pretrain("temperature 0.2", "--contrast_temperature", "0.2"),
    _pretrain("projector of 1 layer", "--projector_layers", "1"),
    _pretrain("projector of 3 layers", "--projector_layers", "3"),
    _pretrain("titles alone", "--pretrain_text", "title"),
    _pretrain("tags alone", "--pretrain_text", "tag"),
    _pretrain("temporal layers 2", "--temporal_layers", "2"),
    _pretrain("without temporal transformer", leaves_out=("--use_temp",)),
    _pretrain("without frame features", leaves_out=("--use_frame_fea",)),
    _train("base"),
    _train("VTM 0.5, FTM 0.5", "--weight_VTM_finetune", "0.5", "--weight_FTM_finetune", "0.5"),
    _train("VTM alone", "--weight_VTM_finetune", "1", "--weight_FTM_finetune", "0"),
    _train("top frames 1", "--top_frames", "1"),
    _train("top frames 4", "--top_frames", "4"),
    _train("temporal layers 2", "--temporal_layers", "2"),
    _train("without temporal transformer", leaves_out=("--use_temp",)),
    _train("without frame features", leaves_out=("--use_frame_fea",)),
)
PROGRAMS = {"pretrain": "main_pretrain.py", "train": "main_task_retrieval.py"}
REAL_SCRIPTS = {"pretrain": "scripts/pretrain_chvtt_english.sh", "train": "scripts/finetune_msrvtt.sh"}
REAL_QUEUE, TOY_QUEUE = 1024, 512
# All four losses are on, unlike in the published English runs.
FOUR_LOSSES = ("--weight_FAM", "0.05", "--weight_VTM", "0.45", "--weight_FTM", "0.45", "--weight_MLM", "0.05")


def real_command(variant: Variant) -> str:
    """The shell command of the variant on the real data."""
    weights = FOUR_LOSSES if variant.job == "pretrain" else ()
    # The script turns these on, and later flags win.
    negative = [f"--no-{flag.removeprefix('--')}" for flag in variant.leaves_out]
    flags = [*weights, *_with_queue(variant.flags, REAL_QUEUE), *negative]
    script = ["bash", REAL_SCRIPTS[variant.job], *flags]
    return f"OUTPUT_DIR=ckpts/ablations/{variant.folder} {shlex.join(script)}"


def toy_flags(variant: Variant, *, data_dir: Path, out: Path, extra: Sequence[str]) -> list[str]:
    """The command line of the variant on the toy data."""
    dataset = (chvtt if variant.job == "pretrain" else msrvtt).SPEC.name
    base = [flag for flag in ("--use_temp", "--use_frame_fea") if flag not in variant.leaves_out]
    queue = ["--contrast_num_negative", str(TOY_QUEUE), *FOUR_LOSSES] if variant.job == "pretrain" else []
    return [
        *(f"--do_{variant.job}", "--dataset", dataset, "--language", "english"),
        *("--data_dir", str(data_dir), "--output_dir", str(out / variant.folder)),
        *("--clip_model", "toy", "--clip_weights", "none", "--max_frames", "6", "--max_words", "24"),
        *("--lr", "2.5e-3", "--text_lr", "2.5e-3", "--batch_size", "32", "--batch_size_val", "128"),
        *("--epochs", "2", "--n_display", "50", "--frame_sample", "uniform_random", "--resume", "auto"),
        *queue,
        *base,
        *extra,
        *_with_queue(variant.flags, TOY_QUEUE),
    ]


def _with_queue(flags: Sequence[str], queue: int) -> list[str]:
    return [str(queue // 2) if flag == "half" else flag for flag in flags]


def build_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="run_ablations.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--data_dir", type=Path, default=Path("toy"), help="toy data with its frame stores")
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"), help="a folder of runs")
    parser.add_argument("--real", action="store_true", help="print the commands for the real data")
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="after --: more flags for every run")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit code."""
    args = build_parser().parse_args(argv)
    return run_program("run_ablations.py", lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    if args.real:
        for variant in VARIANTS:
            print(real_command(variant))
        return 0
    return _run_all(args.data_dir, args.out, [flag for flag in args.flags if flag != "--"])


def _run_all(data_dir: Path, out: Path, extra: Sequence[str]) -> int:
    # Imported only to run something: torch takes seconds.
    from engine.process.signals import StopRequest
    from engine.program import program
    from tools import collect_results

    rows: list[str] = []
    for variant in VARIANTS:
        if not (out / variant.folder / "metrics.jsonl").is_file():
            flags = toy_flags(variant, data_dir=data_dir, out=out, extra=extra)
            with StopRequest() as stop:
                code = program(PROGRAMS[variant.job], flags, stop)
            if stop.number is not None and not code:
                code = 128 + stop.number  # the run is saved, but the others must not begin
            if code == EXIT_USER_ERROR:
                return code  # the program said in a line what is wrong
            if code:
                print(f"run_ablations.py: {variant.job}, {variant.name}: stopped", file=sys.stderr)
                return code
        kind = "pre-trained" if variant.job == "pretrain" else "fine-tuned"
        rows += ["--own", f"{kind}: {variant.name}={out / variant.folder}"]
    return collect_results.main(["--epoch", "last", *rows])


if __name__ == "__main__":
    sys.exit(main())
