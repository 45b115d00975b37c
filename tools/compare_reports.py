"""Is A better than B? Two reports of one split, compared query by query.

    python tools/compare_reports.py A B [--intersect] [--json FILE]

A and B are report folders or output folders of runs (OUTPUT_DIR/report). Prints which captions moved, and for
each metric the difference A - B with a 95% interval and a two-sided p-value, by a sign-flip permutation test
over videos. Both must have ranked the same queries; --intersect compares the queries that both have.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Run as a program, only tools/ itself is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
if __name__ == "__main__":
    import common.early_interrupt  # noqa: F401  (Ctrl-C during the imports that follow)

import numpy as np

from common.arguments import ArgumentParser
from common.atomic_files import beside, check_target, write_json
from common.errors import UserError, run_program
from dataloaders.datasets.files import read_json_object

if TYPE_CHECKING:  # these load torch, and --help must answer at once
    from engine.evaluation.paired_test import PairedTest
    from engine.evaluation.ranks import Ranks
    from engine.report.queries import Key, Queries, RankAndTies

RESAMPLES, MOST_RESAMPLES = 10_000, 1_000_000
SIGNIFICANT = 0.05
MUST_AGREE = ("dataset", "split", "language")
SHOWN = 8  # captions that moved most, each way
WIDTH = 64  # characters of a caption
_NAMED = 3  # queries in a message


@dataclass(frozen=True)
class Report:
    """One report folder."""

    folder: Path
    about: Mapping[str, Any]
    queries: Queries


@dataclass(frozen=True)
class Pair:
    """Two reports, and the ranks of A and B of the same queries; `t2v` has the order of `t2v_keys`."""

    a: Report
    b: Report
    t2v_keys: list[Key]
    t2v: tuple[Ranks, Ranks]
    v2t: tuple[Ranks, Ranks]
    remarks: tuple[str, ...]


def build_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="compare_reports.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for name in ("A", "B"):
        parser.add_argument(name, type=Path, help="report folder, or the output folder of a run")
    parser.add_argument("--intersect", action="store_true", help="compare the queries that both have")
    parser.add_argument(
        "--resamples",
        type=int,
        default=RESAMPLES,
        metavar="N",
        help=f"permutations; few videos are compared exactly [{RESAMPLES}]",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the permutations [0]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to FILE")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit code."""
    args = build_parser().parse_args(argv)
    return run_program("compare_reports.py", lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    if not 100 <= args.resamples <= MOST_RESAMPLES:
        raise UserError(f"--resamples {args.resamples}: give 100 to {MOST_RESAMPLES:,}")
    if args.seed < 0:
        raise UserError(f"--seed {args.seed}: must be 0 or more")
    if args.json:
        check_target(args.json, "--json")
    pair = pair_reports(args.A, args.B, intersect=args.intersect)
    comparison = compare(pair, resamples=args.resamples, seed=args.seed)
    print("\n".join(lines(comparison)), file=beside(args.json))
    if args.json:
        write_json(args.json, comparison)
    return 0


def pair_reports(first: Path, second: Path, *, intersect: bool = False) -> Pair:
    """Read two reports and pair their queries.

    Raises `UserError` if they are of different splits, have no query in common, or, without `intersect`, have
    different queries.
    """
    folders = [_report_folder(first), _report_folder(second)]
    a, b = (_read_report(folder) for folder in folders)
    # The same videos and captions may come from two tables.
    agreed = ("dataset",) if a.about.get("list", "") == b.about.get("list") else ()
    for key in MUST_AGREE:
        if key not in agreed and a.about.get(key) != b.about.get(key):
            raise UserError(
                f"reports of different splits: {key} is {a.about.get(key)} in {a.folder}, "
                f"{b.about.get(key)} in {b.folder}"
            )
    t2v_keys, t2v = _paired(a.queries.t2v, b.queries.t2v)
    v2t_keys, v2t = _paired(a.queries.v2t, b.queries.v2t)
    unpaired = len(a.queries.t2v) + len(b.queries.t2v) - 2 * len(t2v_keys)
    unpaired += len(a.queries.v2t) + len(b.queries.v2t) - 2 * len(v2t_keys)
    if unpaired and not intersect:
        raise UserError(
            f"reports of different queries: {_unpaired_queries(a, b)}; --intersect compares the others"
        )
    if not t2v_keys or not v2t_keys:
        raise UserError(f"{a.folder}, {b.folder}: no query is in both reports")
    remarks = []
    candidates = [report.about.get("videos") for report in (a, b)]
    if unpaired or candidates[0] != candidates[1]:
        remarks.append(
            f"A ranked these queries among {candidates[0]} candidates and B among {candidates[1]}: "
            "fewer candidates give better ranks"
        )
    return Pair(a, b, t2v_keys, t2v, v2t, tuple(remarks))


def _report_folder(folder: Path) -> Path:
    """`folder`, or the `report` folder in it."""
    for candidate in (folder, folder / "report"):
        if (candidate / "report.json").is_file():
            parts = [str(part.parent) for part in sorted(candidate.glob("*/queries.jsonl"))]
            if parts and not (candidate / "queries.jsonl").exists():
                raise UserError(f"{folder}: a report of two languages; give {' or '.join(parts)}")
            return candidate
    raise UserError(f"{folder}: no report there (report.json); give a report folder or a run's output folder")


def _read_report(folder: Path) -> Report:
    from engine.report.queries import FILE, read_queries

    return Report(folder, read_json_object(folder / "report.json"), read_queries(folder / FILE))


def _paired(
    a: Mapping[Key, RankAndTies], b: Mapping[Key, RankAndTies]
) -> tuple[list[Key], tuple[Ranks, Ranks]]:
    """The queries of both, sorted, so that their order does not depend on which report comes first."""
    from engine.evaluation.ranks import single_ranks

    keys = sorted(a.keys() & b.keys())
    one, two = (single_ranks(*np.array([side[key] for key in keys]).reshape(-1, 2).T) for side in (a, b))
    return keys, (one, two)


def _unpaired_queries(a: Report, b: Report) -> str:
    parts = []
    for name, one, two in (("A", a, b), ("B", b, a)):
        only = [key for key in one.queries.t2v if key not in two.queries.t2v]
        only += [key for key in one.queries.v2t if key not in two.queries.v2t]
        if only:
            some = ", ".join(repr(caption or video) for video, caption, _ in only[:_NAMED])
            parts.append(f"{len(only)} only in {name} ({some}{', ...' if len(only) > _NAMED else ''})")
    return ", ".join(parts)


def compare(pair: Pair, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Everything that is printed, ready for JSON. Differences are A - B."""
    from engine.evaluation.paired_test import FEW, paired_test

    clusters = np.unique([video for video, _, _ in pair.t2v_keys], return_inverse=True)[1]
    tests: dict[str, PairedTest] = {
        direction: paired_test(b, a, clusters=videos, samples=resamples, seed=seed)
        for direction, (a, b), videos in (("t2v", pair.t2v, clusters), ("v2t", pair.v2t, None))
    }
    videos = min(test.clusters for test in tests.values())
    remarks = list(pair.remarks)
    if videos < FEW:
        remarks.append(
            f"only {videos} videos: nothing but a large difference can be shown; compare on {FEW} or more"
        )
    return {
        "A": str(pair.a.folder),
        "B": str(pair.b.folder),
        "remarks": remarks,
        "captions": len(pair.t2v_keys),
        "videos": len(pair.v2t[0]),
        "test": "sign-flip permutation test over videos",
        "exact": all(test.exact for test in tests.values()),
        "differences": _differences(pair, tests, resamples=resamples),
        "resamples": resamples,
        "moved": _movement(pair),
        **_largest_moves(pair),
    }


def _differences(pair: Pair, tests: Mapping[str, PairedTest], *, resamples: int) -> dict[str, dict[str, Any]]:
    """For each R@K and MeanR of both directions: a, b, value (a - b), low, high, p, p_shown.

    `low` and `high` are None if there are too few videos for an interval.
    """
    from engine.evaluation.metrics import summarise

    result = {}
    for direction, ranks in (("t2v", pair.t2v), ("v2t", pair.v2t)):
        a, b = (summarise(side, direction=direction) for side in ranks)
        test = tests[direction]
        for metric, difference in test.differences.items():
            name = f"{direction}/{metric}"
            limits = (difference.low, difference.high)
            low, high = (limit if math.isfinite(limit) else None for limit in limits)
            result[name] = {
                "a": a[name],
                "b": b[name],
                "value": difference.value,
                "low": low,
                "high": high,
                "p": difference.p,
                "p_shown": _shown_p(difference.p, None if test.exact else resamples),
            }
    return result


def _shown_p(p: float, resamples: int | None) -> str:
    """`resamples` None: p is exact."""
    # One permutation in so many is the smallest p that can be seen.
    if resamples is not None and p <= 1.001 / (1 + resamples):
        return f"<{2 / (1 + resamples):.1g}"
    return f"{p:.2f}" if p >= 0.01 else f"{p:.1g}"


def _movement(pair: Pair) -> dict[str, Any]:
    """How many captions rank better or worse in A, and the median factor between their two ranks."""
    a, b = (ranks.expected for ranks in pair.t2v)
    moved = a != b
    factor = float(np.exp(np.median(np.abs(np.log(a[moved] / b[moved]))))) if moved.any() else 1.0
    return {
        "better": int((a < b).sum()),
        "worse": int((a > b).sum()),
        "same": int((~moved).sum()),
        "gained_first": int(((a <= 1) & (b > 1)).sum()),
        "lost_first": int(((a > 1) & (b <= 1)).sum()),
        "factor": factor,
    }


def _largest_moves(pair: Pair) -> dict[str, list[dict[str, Any]]]:
    """The captions whose rank changed by the largest factor, each way.

    By factor, a move from 20 to 1 is larger than one from 900 to 500.
    """
    a, b = (ranks.expected for ranks in pair.t2v)
    change = np.log(a / b)
    result = {}
    for name, signed in (("better_in_a", change), ("worse_in_a", -change)):
        order = [i for i in np.argsort(signed, kind="stable")[:SHOWN].tolist() if signed[i] < 0]
        result[name] = [
            {
                "video": pair.t2v_keys[i][0],
                "caption": pair.t2v_keys[i][1],
                "a": float(a[i]),
                "b": float(b[i]),
            }
            for i in order
        ]
    return result


def lines(comparison: dict[str, Any]) -> list[str]:
    """The printed text of what `compare` returns."""
    shown = [f"A: {comparison['A']}", f"B: {comparison['B']}"]
    shown += [f"note: {remark}" for remark in comparison["remarks"]]
    shown += [f"{comparison['captions']:,} captions, {comparison['videos']:,} videos with captions", ""]
    shown += _table(comparison["differences"])
    shown += ["", *(sentence(name, comparison["differences"][name]) for name in ("t2v/R@1", "v2t/R@1"))]
    how = "all permutations" if comparison["exact"] else f"{comparison['resamples']:,} permutations"
    shown.append(
        f"({how} of A and B over videos with all their captions. With "
        f"{len(comparison['differences'])} metrics compared, a single p just under 0.05 is weak evidence.)"
    )
    shown += ["", *_moved_lines(comparison["moved"])]
    for key, title in (("better_in_a", "better in A"), ("worse_in_a", "worse in A")):
        if comparison[key]:
            shown += ["", f"{title}, rank in A <- B:", *map(_moved_caption, comparison[key])]
    return shown


def sentence(name: str, difference: Mapping[str, Any]) -> str:
    """The difference of a metric in words; says so if none has been shown."""
    value, p = difference["value"], difference["p_shown"]
    is_rank = name.endswith("MeanR")
    unit = "" if is_rank else " points"
    interval = _interval(difference, 1)
    limits = "no interval: too few videos" if interval is None else f"95% {interval}"
    test = f"{limits}, p {p if p.startswith('<') else '= ' + p}"
    if difference["p"] > SIGNIFICANT:
        return f"No difference shown in {name}: A - B = {value:+.1f}{unit} ({test})."
    better = (value < 0) == is_rank
    way = "lower" if value < 0 else "higher"
    return f"A's {name} is {abs(value):.1f}{unit} {way} ({test}): A is {'better' if better else 'worse'}."


def _interval(difference: Mapping[str, Any], digits: int) -> str | None:
    """None if there are too few videos for an interval."""
    low, high = difference["low"], difference["high"]
    return None if low is None or high is None else f"{low:+.{digits}f} to {high:+.{digits}f}"


def _table(differences: dict[str, dict[str, Any]]) -> list[str]:
    shown = [f"{'':12}{'A':>9}{'B':>9}{'A - B':>9}   {'95% interval':18}{'p':>7}"]
    for name, d in differences.items():
        interval = _interval(d, 2) or "no interval"
        shown.append(
            f"{name:12}{d['a']:9.2f}{d['b']:9.2f}{d['value']:+9.2f}   {interval:18}{d['p_shown']:>7}"
        )
    return shown


def _moved_lines(moved: dict[str, Any]) -> list[str]:
    return [
        f"captions: {moved['better']:,} rank better in A, {moved['worse']:,} worse, "
        f"{moved['same']:,} the same; median factor of those that moved: {moved['factor']:.2g}",
        f"{moved['gained_first']:,} gained the first rank in A, {moved['lost_first']:,} lost it",
    ]


def _moved_caption(entry: dict[str, Any]) -> str:
    caption = " ".join(entry["caption"].split())
    caption = caption if len(caption) <= WIDTH else caption[: WIDTH - 1] + "…"
    return f"  {_shown_rank(entry['a']):>8} <- {_shown_rank(entry['b']):>8}  {entry['video']}: {caption}"


def _shown_rank(rank: float) -> str:
    return f"{rank:,.0f}" if math.floor(rank) == rank else f"{rank:,.1f}"


if __name__ == "__main__":
    sys.exit(main())
