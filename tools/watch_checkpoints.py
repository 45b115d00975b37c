"""Evaluate the checkpoints of a run while it trains, on the same machine or another one.

    watch_checkpoints.py OUTPUT_DIR                        until the run's last epoch is evaluated, or Ctrl-C
    watch_checkpoints.py OUTPUT_DIR --once                 only the checkpoints that exist now
    watch_checkpoints.py OUTPUT_DIR --split val --batch_size_val 64

Settings come from OUTPUT_DIR/config.json; flags of main_task_retrieval.py override them. Results go to
OUTPUT_DIR/watched/metrics.jsonl, and at the end a table of all to the log. Checkpoints that were evaluated
before are skipped. Exit code: 0 done, 1 a file could not be evaluated, 2 bad input, 130 ended by Ctrl-C.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Run as a program, only tools/ itself is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
if __name__ == "__main__":
    import common.early_interrupt  # noqa: F401  (Ctrl-C during the imports that follow)

from common.arguments import ArgumentParser
from common.errors import EXIT_INTERRUPTED, UserError, file_errors, run_program
from engine.command_line import PROGRAMS, Remark
from engine.config import Config
from engine.config_checks import parse_and_check
from engine.saved_settings import FEATURES, SETTINGS_FILE, disagreements, tested_on
from tools.results.run_folders import Settings, read_run_settings
from tools.store.flag_values import seconds

if TYPE_CHECKING:  # torch is imported once flags and paths are right
    from engine.evaluation.folder import CheckpointFolder

PROGRAM = "main_task_retrieval.py"
# Settings of the training that its evaluation does not use.
_NOT_TAKEN_OVER = frozenset(
    (
        *("output_dir", "do_pretrain", "do_train", "do_eval", "do_params", "init_model", "resume"),
        *("wandb", "logdir", "local_rank", "fsdp", "compile", "freeze", "select_on", "report"),
        *("save_features", "save_similarity", "precision", "enable_amp", "eval_dataset"),
    )
)


def build_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="watch_checkpoints.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, metavar="OUTPUT_DIR", help="output folder of the run")
    parser.add_argument("--once", action="store_true", help="evaluate the existing checkpoints and end")
    parser.add_argument(
        "--every", type=seconds, default=30.0, help="seconds between two checks of the folder (default 30)"
    )
    parser.add_argument("--split", choices=("test", "val"), default="test", help="list to evaluate on")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit code."""
    args, flags = build_parser().parse_known_args(argv)
    return run_program("watch_checkpoints.py", lambda: _run(args, flags))


def _run(args: argparse.Namespace, flags: Sequence[str]) -> int:
    settings = read_run_settings(args.run)
    config, remarks = evaluation_config(settings, flags, output_dir=args.run / "watched")
    return _watch(args, config, remarks, epochs=settings.get("epochs", config.epochs))


def evaluation_config(
    settings: Settings, flags: Sequence[str], *, output_dir: Path
) -> tuple[Config, list[Remark]]:
    """The settings to evaluate the checkpoints of a run with `settings`; `flags` override them.

    The remarks name flags that disagree with `settings`. Raises `UserError` if the run did not train.
    """
    if not (settings["do_train"] or settings["do_pretrain"]):
        raise UserError(f"{output_dir.parent}: not the folder of a training run")
    argv = ["--do_eval", f"--output_dir={output_dir}"]
    if settings["do_pretrain"] or settings.get("eval_dataset"):
        argv.append(f"--eval_dataset={tested_on(settings)}")
    config, remarks = parse_and_check([*argv, *_as_flags(settings), *flags], program=PROGRAM)
    path = output_dir.parent / SETTINGS_FILE
    warnings = disagreements(config, settings, names=FEATURES, path=path)
    return config, [*remarks, *(Remark(text, is_warning=True) for text in warnings)]


def _as_flags(settings: Mapping[str, Any]) -> list[str]:
    """The settings that an evaluation shares with its training, as flags; defaults are left out."""
    argv = []
    for item in dataclasses.fields(Config):
        name, value = item.name, settings.get(item.name)
        default = PROGRAMS[PROGRAM].get(name, item.default)
        obsolete = item.metadata["group"].startswith("no effect")
        if name in _NOT_TAKEN_OVER or obsolete or value is None or value == default:
            continue
        if (item.metadata["kind"] or type(default)) is bool:
            if value or default:
                argv.append(f"--{name}" if value else f"--no-{name}")
        else:
            argv.append(f"--{name}={value}")
    return argv


def _watch(args: argparse.Namespace, config: Config, remarks: Sequence[Remark], *, epochs: int) -> int:
    from engine.distributed.precision import settle_precision
    from engine.distributed.world import World
    from engine.evaluation.folder import CheckpointFolder
    from engine.logs.run_log import RunLog

    output_dir = Path(config.output_dir)
    with file_errors(output_dir, "cannot be made"):
        output_dir.mkdir(exist_ok=True)
    world = World.from_environment(config.local_rank)
    precision, choice = settle_precision(config.precision, world)
    config = dataclasses.replace(config, precision=precision)
    log = RunLog(output_dir, active=True)
    log.info(choice)
    for remark in remarks:
        log.remark(remark)
    series = CheckpointFolder(config, world, log, split=args.split)
    try:
        with world.sharing_failures():
            _load_earlier_results(series, args)
            while not _evaluate_new(series, args.run, epochs) and not args.once:
                time.sleep(args.every)
    except KeyboardInterrupt:
        log.info("stopped by Ctrl-C; the same command continues")
        return EXIT_INTERRUPTED
    finally:
        for line in series.table():
            log.info(line)
        log.close()
        world.close(failed=sys.exc_info()[0] is not None)
    return 1 if series.bad else 0


def _load_earlier_results(series: CheckpointFolder, args: argparse.Namespace) -> None:
    """Load the results that an earlier start measured on the same files."""
    from engine.evaluation.feature_files import file_digest
    from engine.evaluation.folder import COLUMNS
    from engine.logs.metrics_jsonl import read_results

    for result in read_results(args.run / "watched" / "metrics.jsonl"):
        if not all(isinstance(result.get(name), int | float) for name in COLUMNS):
            continue  # cut off, or from elsewhere
        path = Path(str(result.get("checkpoint")))
        exists = result.get("split") == args.split and path.parent == args.run and path.is_file()
        if exists and file_digest(path) == result.get("checkpoint_sha256"):
            series.results[path] = result


def _evaluate_new(series: CheckpointFolder, folder: Path, epochs: int) -> bool:
    """Evaluate new checkpoints. True once the run's last epoch has been evaluated."""
    from engine.checkpoint.files import epoch_of, list_checkpoints

    for path in list_checkpoints(folder):
        if path not in series.results and path not in series.bad:
            series.evaluate(path)
    evaluated = {epoch_of(path) for path in (*series.results, *series.bad)}
    return epochs - 1 in evaluated


if __name__ == "__main__":
    sys.exit(main())
