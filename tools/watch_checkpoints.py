"""Evaluate the checkpoints of a run as they appear, while it trains: on another machine, or beside it.

    watch_checkpoints.py OUTPUT_DIR                        until the run's last epoch is there, or Ctrl-C
    watch_checkpoints.py OUTPUT_DIR --once                 those that are there now
    watch_checkpoints.py OUTPUT_DIR --split val --batch_size_val 64

Settings are those of OUTPUT_DIR/config.json; flags of main_task_retrieval.py win over them. Results go to
OUTPUT_DIR/watched/metrics.jsonl, a table of all to the log at the end. A checkpoint that was watched before
is not evaluated again. Exit code: 0 done, 1 a file could not be evaluated, 2 bad input, 130 ended by Ctrl-C.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Run as a program, only tools/ itself is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.config import PROGRAMS, Config
from engine.config_checks import parse_and_check
from engine.distributed.world import World
from engine.evaluation.feature_files import file_digest
from engine.evaluation.folder import CheckpointFolder, epoch_of, list_checkpoints
from engine.logs.metrics_jsonl import read_results
from engine.logs.run_log import RunLog
from tools.results.run_folders import Settings, read_settings

PROGRAM = "main_task_retrieval.py"
# What makes a training run; an evaluation has its own, or none.
_OF_TRAINING = frozenset(
    (
        *("output_dir", "do_pretrain", "do_train", "do_eval", "do_params", "init_model", "resume"),
        *("wandb", "logdir", "local_rank", "fsdp", "compile", "freeze", "select_on", "report"),
        *("save_features", "save_similarity", "enable_amp", "eval_dataset"),
    )
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="watch_checkpoints.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, metavar="OUTPUT_DIR", help="output folder of the run")
    parser.add_argument("--once", action="store_true", help="evaluate what is there, and end")
    parser.add_argument("--every", type=float, default=30.0, help="seconds between looks (default 30)")
    parser.add_argument("--split", choices=("test", "val"), default="test", help="list to evaluate on")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program on `argv`; returns its exit code."""
    parser = build_parser()
    args, flags = parser.parse_known_args(argv)
    try:
        settings = read_settings(args.run / "config.json")
        config = evaluation_config(settings, flags, output_dir=args.run / "watched")
        return _watch(args, config, epochs=int(settings["epochs"]))
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2


def evaluation_config(settings: Settings, flags: Sequence[str], *, output_dir: Path) -> Config:
    """The settings of a run made those of an evaluation of its checkpoints; `flags` win.

    Raises `ValueError` where the run only evaluated.
    """
    if not (settings["do_train"] or settings["do_pretrain"]):
        raise ValueError(f"{output_dir.parent}: not the folder of a training run")
    argv = ["--do_eval", f"--output_dir={output_dir}"]
    if settings["do_pretrain"] or settings.get("eval_dataset"):
        known = {f.name: settings[f.name] for f in dataclasses.fields(Config) if f.name in settings}
        argv.append(f"--eval_dataset={Config(**known).test_dataset}")
    config, _ = parse_and_check([*argv, *_as_flags(settings), *flags], program=PROGRAM)
    return config


def _as_flags(settings: Mapping[str, Any]) -> list[str]:
    """Settings of an evaluation as a command line; those at their defaults are left out."""
    argv = []
    for item in dataclasses.fields(Config):
        name, value = item.name, settings.get(item.name)
        default = PROGRAMS[PROGRAM].get(name, item.default)
        obsolete = item.metadata["group"].startswith("no effect")
        if name in _OF_TRAINING or obsolete or value is None or value == default:
            continue
        if isinstance(default, bool):
            argv.append(f"--{name}" if value else f"--no-{name}")
        else:
            argv.append(f"--{name}={value}")
    return argv


def _watch(args: argparse.Namespace, config: Config, *, epochs: int) -> int:
    output_dir = Path(config.output_dir)
    output_dir.mkdir(exist_ok=True)
    world = World.from_environment(config.local_rank)
    log = RunLog(output_dir, active=True)
    series = CheckpointFolder(config, world, log, split=args.split)
    try:
        _remember(series, args)
        while not _look(series, args.run, epochs) and not args.once:
            time.sleep(args.every)
    except KeyboardInterrupt:
        log.info("stopped by Ctrl-C; the same command goes on")
        return 130
    finally:
        for line in series.table():
            log.info(line)
        log.close()
        world.close(failed=sys.exc_info()[0] is not None)
    return 1 if series.bad else 0


def _remember(series: CheckpointFolder, args: argparse.Namespace) -> None:
    """Take what an earlier watch measured of the very same files."""
    for line in read_results(args.run / "watched" / "metrics.jsonl"):
        path = Path(str(line.get("checkpoint")))
        same = line.get("split") == args.split and path.parent == args.run and path.is_file()
        if same and file_digest(path) == line.get("checkpoint_sha256"):
            series.results[path] = line


def _look(series: CheckpointFolder, folder: Path, epochs: int) -> bool:
    """Evaluate what is new. True when the run's last epoch is there and looked at."""
    for path in list_checkpoints(folder):
        if path not in series.results and path not in series.bad:
            series.evaluate(path)
    looked_at = {epoch_of(path) for path in (*series.results, *series.bad)}
    return epochs - 1 in looked_at


if __name__ == "__main__":
    sys.exit(main())
