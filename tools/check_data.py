"""Check a data set: its split lists, and what is missing, broken, duplicate or shared by training and test.

    python tools/check_data.py --dataset msrvtt --data_dir data

Exit code: 0 fine, 1 problems (with --strict also warnings), 2 wrong usage or nothing to check.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

# Run as a program, only tools/ itself is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
if __name__ == "__main__":
    import common.early_interrupt  # noqa: F401  (Ctrl-C during the imports that follow)

from common.arguments import ArgumentParser
from common.atomic_files import beside, check_target
from common.errors import UserError, run_program
from common.languages import BILINGUAL, LANGUAGES, languages_of
from dataloaders.datasets.registry import (
    DATASETS,
    dataset_spec,
    default_files,
    describe_choices,
    read_examples,
    require_choice,
)
from dataloaders.datasets.spec import HELD_OUT, SPLITS, TRAINING, SplitFiles
from dataloaders.datasets.splits import match_store_ids
from dataloaders.datasets.table import read_table
from dataloaders.examples import Examples
from dataloaders.frame_source import FrameSource
from dataloaders.frame_store.reader import FrameStore
from engine.input_files import how_to_store
from tools.doctor import store_checks, text_checks
from tools.doctor.clip_overlap import spans_of
from tools.doctor.decoded_videos import videos_to_check
from tools.doctor.report import Report
from video.clip_ids import Part


@dataclass(frozen=True)
class Job:
    """One split to check. `is_required` if the user named it or one of its files."""

    split: str
    dataset: str
    files: SplitFiles
    is_required: bool
    is_store_required: bool
    clip_from_id: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit code."""
    args = build_parser().parse_args(argv)
    return run_program("check_data.py", lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    if args.json:
        check_target(args.json, "--json")
    args.dataset = dataset_spec(args.dataset).name
    if args.eval_dataset:
        args.eval_dataset = dataset_spec(args.eval_dataset, flag="--eval_dataset").name
    require_choice(args.split, [args.dataset, args.eval_dataset or args.dataset])
    report = check_data(_jobs(args), language=_language(args), sample=args.sample)
    code = report.exit_code(strict=args.strict)
    if args.json:
        settings = {key: str(value) for key, value in vars(args).items() if value is not None}
        report.write_json(args.json, settings=settings, exit_code=code)
    print("\n".join(report.lines()), file=beside(args.json))
    return code


def check_data(jobs: Sequence[Job], *, language: str, sample: int | None) -> Report:
    """Check all `jobs`; frames of `sample` videos per split are decoded (None: all).

    Raises `UserError` if none of the splits exists.
    """
    report = Report()
    existing = {job.split: job for job in jobs if _exists(report, job)}
    if not existing:
        paths = ", ".join(str(job.files.list or job.files.annotations) for job in jobs)
        raise UserError(f"nothing to check, none of these files exists: {paths} (see docs/DATA.md)")
    examples: dict[str, Examples] = {}
    decoded: dict[str, store_checks.DecodedVideos] = {}
    spans: dict[str, Part] = {}
    for split, job in existing.items():
        try:
            examples[split] = _check_texts(report, job, spans, language=language)
        except UserError as error:
            report.add("problem", split, "unreadable", str(error))
            continue
        videos = _check_store(report, job, examples[split], spans, sample=sample)
        if videos is not None:
            decoded[split] = videos
    _check_pairs(report, examples, decoded, spans)
    return report


def _exists(report: Report, job: Job) -> bool:
    """Whether the file that defines the videos of the split exists; if not, the report says so."""
    path = job.files.list or job.files.annotations
    if path.exists():
        return True
    if job.is_required:
        report.add("problem", job.split, "absent", f"no such file: {path}")
    else:
        report.add("note", job.split, "absent", f"not checked, no such file: {path}")
    return False


def _check_texts(report: Report, job: Job, spans: dict[str, Part], *, language: str) -> Examples:
    split, files = job.split, job.files
    if split in TRAINING or files.whole:
        for remark in dataset_spec(job.dataset).remarks(files, language).warnings:
            report.add("warning", split, "table", remark)
    examples = read_examples(job.dataset, split, language=language, files=files)
    report.fact(split, "videos", examples.num_videos)
    report.fact(split, "captions", f"{examples.num_captions:,} ({language})")
    report.fact(split, "annotations", str(files.annotations))
    if files.list is not None:
        report.fact(split, "list file", str(files.list))
    text_checks.check_split_list(report, split, examples, dataset=job.dataset, files=files)
    if files.annotations.exists():
        text_checks.check_annotation_ids(report, split, files.annotations, dataset=job.dataset)
        text_checks.check_faults(report, split, files, dataset=job.dataset)
    spans.update(spans_of(dataset_spec(job.dataset), files.annotations, examples.video_ids))
    text_checks.check_captions_per_video(report, split, examples, dataset=job.dataset)
    text_checks.check_captions(report, split, examples)
    text_checks.check_overlaps(report, split, examples, spans=spans)
    return examples


def _check_store(
    report: Report, job: Job, examples: Examples, spans: Mapping[str, Part], *, sample: int | None
) -> store_checks.DecodedVideos | None:
    path = job.files.videos or job.files.store
    report.fact(job.split, "frame store" if job.files.videos is None else "video folder", str(path))
    if job.files.videos is None and not path.exists() and not job.is_store_required:
        command = how_to_store(job.dataset, job.files)
        make = f"; {command} makes it" if command else ""
        report.add("note", job.split, "no-store", f"no frame store at {path}, so no video is checked{make}")
        return None
    try:
        store = _frames(job)
        examples = match_store_ids(examples, store, prefix=dataset_spec(job.dataset).store_prefix)
        seconds = dataset_spec(job.dataset).first_seconds
        if seconds is not None and job.files.videos is None:
            store_checks.check_first_seconds(report, job.split, examples, store=store, seconds=seconds)
        return store_checks.check_store(report, job.split, examples, store=store, sample=sample, spans=spans)
    except UserError as error:
        report.add("problem", job.split, "store", str(error))
        return None


def _frames(job: Job) -> FrameSource:
    if job.files.videos is None:
        return FrameStore(job.files.store)
    spec = dataset_spec(job.dataset)
    return videos_to_check(job.files.videos, clip_from_id=job.clip_from_id, first_seconds=spec.first_seconds)


def _check_pairs(
    report: Report,
    examples: Mapping[str, Examples],
    decoded: Mapping[str, store_checks.DecodedVideos],
    spans: Mapping[str, Part],
) -> None:
    """Compare every training split with validation and test, and these two with each other."""
    pairs = [(train, test) for train in TRAINING for test in HELD_OUT]
    for names in [*pairs, HELD_OUT]:
        first, second = names
        if first in examples and second in examples:
            text_checks.check_leaks(report, examples[first], examples[second], names=names, spans=spans)
        if first in decoded and second in decoded:
            store_checks.check_same_pictures(report, decoded[first], decoded[second], names=names)


def _language(args: argparse.Namespace) -> str:
    """The flag, else Chinese if the data set has it. All data sets of the run must have the language."""
    spec = dataset_spec(args.dataset)
    languages = spec.languages
    if spec.is_table and not args.language:
        files = default_files(args.data_dir, args.dataset, "train")
        languages = read_table(files.with_paths(args.train_annotations, None, None).annotations).languages()
        if len(languages) > 1:
            return BILINGUAL
    language: str = args.language or ("chinese" if "chinese" in languages else languages[0])
    for name in (args.dataset, args.eval_dataset or args.dataset):
        if not set(languages_of(language)) <= set(dataset_spec(name).languages):
            available = " and ".join(dataset_spec(name).languages)
            raise UserError(f"--language {language}: {name} has captions in {available} only")
    return language


def _jobs(args: argparse.Namespace) -> list[Job]:
    """The splits to check, with their files; of splits with the same files, only one."""
    train_name = "pretrain" if args.splits and "train" not in args.splits else "train"
    jobs = []
    for split in args.splits or _distinct_splits(args):
        dataset = args.eval_dataset if args.eval_dataset and split in HELD_OUT else args.dataset
        side = {train_name: "train", "test": "eval"}.get(split)
        names = ("annotations", "list", "store")
        flags = {name: getattr(args, f"{side}_{name}") if side else None for name in names}
        files = default_files(args.data_dir, dataset, split, choice=args.split)
        files = files.with_paths(flags["annotations"], flags["list"], flags["store"])
        videos = None if flags["store"] else _video_dir(args, split)
        files = replace(files, videos=videos)
        is_required = bool(args.splits or flags["annotations"] or flags["list"])
        jobs.append(Job(split, dataset, files, is_required, bool(flags["store"]), args.clip_from_id))
    several = len({job.files.annotations for job in jobs}) > 1
    return [replace(job, files=replace(job.files, whole=several)) for job in jobs]


def _video_dir(args: argparse.Namespace, split: str) -> Path | None:
    path: Path | None = args.eval_video_dir if split in HELD_OUT and args.eval_video_dir else args.video_dir
    return path


def _distinct_splits(args: argparse.Namespace) -> list[str]:
    """The splits with different videos: MSR-VTT uses its test list for val, its train list for pretrain."""
    if dataset_spec(args.dataset).is_table:
        return _splits_of_table(args)
    splits = ["pretrain", "train"] if _differ(args, "pretrain", "train") else ["train"]
    if not args.eval_dataset and _differ(args, "val", "test"):
        splits.append("val")
    return [*splits, "test"]


def _splits_of_table(args: argparse.Namespace) -> list[str]:
    """The splits that a table names; without such a column it is training and test."""
    files = default_files(args.data_dir, args.dataset, "train")
    path = files.with_paths(args.train_annotations, None, None).annotations
    found = read_table(path).splits_named() or ("train", "test")
    other_test = args.eval_dataset or args.eval_annotations
    return list(dict.fromkeys([*found, *(["test"] if other_test else [])]))


def _differ(args: argparse.Namespace, first: str, second: str) -> bool:
    one, two = (default_files("", args.dataset, split, choice=args.split) for split in (first, second))
    return one != two


def _sample(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: must be a number from 0, or 'all'")
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="check_data.py",
        description=(__doc__ or "").splitlines()[0],
        epilog=(__doc__ or "").splitlines()[-1],
        allow_abbrev=False,
    )
    add = parser.add_argument
    names = ", ".join(DATASETS)
    add("--dataset", required=True, help=f"{names}, or a table of your own (docs/YOUR_DATA.md)")
    add(
        "--data_dir",
        type=Path,
        default=Path(os.environ.get("HMMC_DATA") or "data"),
        help="folder with one folder per data set [$HMMC_DATA or 'data']",
    )
    languages = (*LANGUAGES, BILINGUAL)
    add("--language", choices=languages, help="[chinese if the data set has it; of a table: its languages]")
    add("--splits", nargs="+", choices=SPLITS, help="check only these; they must exist")
    add("--split", help=f"published lists, where there are several: {describe_choices()}")
    add("--eval_dataset", help="use the test split of another data set")
    for side, what in (("train", "training"), ("eval", "test")):
        for field in ("annotations", "list", "store"):
            add(
                f"--{side}_{field}",
                metavar="PATH",
                help=f"{field} of the {what} split, instead of the default",
            )
    add("--video_dir", type=Path, help="check the videos of this folder, for --frames_from videos")
    add("--eval_video_dir", type=Path, help="the same for validation and test [--video_dir]")
    add("--clip_from_id", action="store_true", help="ids VIDEO_SSSSSS_EEEEEE are seconds S to E of VIDEO")
    add(
        "--sample",
        type=_sample,
        default=100,
        metavar="N",
        help="decode all frames of N videos per split, or 'all' [100]",
    )
    add("--json", type=Path, metavar="FILE", help="also write the report as JSON")
    add("--strict", action="store_true", help="exit code 1 for warnings too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
