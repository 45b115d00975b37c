"""Is A better than B? Two reports of one split, query by query.

    python tools/compare_reports.py A B [--intersect] [--json FILE]

A and B are report folders or output folders of runs (OUTPUT_DIR/report). Prints which captions moved, and the
difference of each figure with a 95% interval and a two-sided p-value by paired bootstrap over videos. Both
must have ranked the same queries; --intersect compares those that both have.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Run as a program, only tools/ itself is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.atomic_files import write_text
from tools.doctor.report import say
from tools.paired_reports import Pair, differences, movement, movers, pair_reports, sentence

RESAMPLES = 10_000
SHOWN = 8  # movers each way
WIDTH = 64  # characters of a caption


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="compare_reports.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for name in ("A", "B"):
        parser.add_argument(name, type=Path, help="report folder, or the output folder of a run")
    parser.add_argument("--intersect", action="store_true", help="compare the queries that both have")
    parser.add_argument(
        "--resamples", type=int, default=RESAMPLES, metavar="N", help=f"bootstrap resamples [{RESAMPLES}]"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap [0]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to FILE")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 2 bad input."""
    arguments = build_parser().parse_args(argv)
    try:
        if arguments.resamples < 100:
            raise ValueError(f"--resamples {arguments.resamples}: give at least 100")
        pair = pair_reports(arguments.A, arguments.B, intersect=arguments.intersect)
        found = compare(pair, resamples=arguments.resamples, seed=arguments.seed)
        say(lines(found))
        if arguments.json:
            write_text(arguments.json, json.dumps(found, ensure_ascii=False, indent=1) + "\n")
    except (ValueError, OSError) as error:
        print(f"compare_reports.py: error: {error}", file=sys.stderr)
        return 2
    return 0


def compare(pair: Pair, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Everything that is told, ready for JSON. Differences are A minus B."""
    return {
        "A": str(pair.a.folder),
        "B": str(pair.b.folder),
        "remarks": list(pair.remarks),
        "captions": len(pair.t2v),
        "videos": len(pair.v2t),
        "differences": differences(pair, resamples=resamples, seed=seed),
        "resamples": resamples,
        "moved": movement(pair),
        **movers(pair, count=SHOWN),
    }


def lines(found: dict[str, Any]) -> list[str]:
    """For people."""
    shown = [f"A: {found['A']}", f"B: {found['B']}", *(f"note: {remark}" for remark in found["remarks"])]
    shown += [f"{found['captions']:,} captions, {found['videos']:,} videos with captions", ""]
    shown += _figures(found["differences"])
    shown += ["", *(sentence(name, found["differences"][name]) for name in ("t2v/R@1", "v2t/R@1"))]
    shown.append(
        f"({found['resamples']:,} resamples of videos with all their captions. With "
        f"{len(found['differences'])} figures compared, a single p just under 0.05 is weak evidence.)"
    )
    shown += ["", *_moved(found["moved"])]
    for key, title in (("better_in_a", "better in A"), ("worse_in_a", "worse in A")):
        if found[key]:
            shown += ["", f"{title}, rank in A <- B:", *map(_mover, found[key])]
    return shown


def _figures(differences: dict[str, dict[str, Any]]) -> list[str]:
    shown = [f"{'':12}{'A':>9}{'B':>9}{'A - B':>9}   {'95% interval':18}{'p':>7}"]
    for name, d in differences.items():
        interval = f"{d['low']:+.2f} to {d['high']:+.2f}"
        shown.append(
            f"{name:12}{d['a']:9.2f}{d['b']:9.2f}{d['value']:+9.2f}   {interval:18}{d['p_shown']:>7}"
        )
    return shown


def _moved(moved: dict[str, Any]) -> list[str]:
    return [
        f"captions: {moved['better']:,} rank better in A, {moved['worse']:,} worse, "
        f"{moved['same']:,} the same; median factor of those that moved: {moved['factor']:.2g}",
        f"into first place {moved['gained_first']:,}, out of it {moved['lost_first']:,}",
    ]


def _mover(entry: dict[str, Any]) -> str:
    caption = " ".join(entry["caption"].split())
    caption = caption if len(caption) <= WIDTH else caption[: WIDTH - 1] + "…"
    return f"  {_rank(entry['a']):>8} <- {_rank(entry['b']):>8}  {entry['video']}: {caption}"


def _rank(rank: float) -> str:
    return f"{rank:,.0f}" if math.floor(rank) == rank else f"{rank:,.1f}"


if __name__ == "__main__":
    sys.exit(main())
