"""Two reports of one split side by side: the same queries, their differences, and who moved.

Q queries. Differences are A minus B throughout.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.evaluation.bootstrap import paired_bootstrap
from engine.evaluation.metrics import RECALL_AT
from engine.report.queries import FILE as QUERIES
from engine.report.queries import Key, Queries, read_queries

SAME = ("dataset", "split", "language")  # what must agree between reports
SURE = 0.05
_NAMED = 3  # queries in messages


@dataclass(frozen=True)
class Report:
    """One report folder."""

    folder: Path
    about: Mapping[str, Any]
    queries: Queries


@dataclass(frozen=True)
class Pair:
    """Ranks float64 [Q, 2] of A and B for `t2v_keys` and `v2t_keys`."""

    a: Report
    b: Report
    t2v_keys: list[Key]
    t2v: np.ndarray
    v2t: np.ndarray
    remarks: tuple[str, ...]


def read_report(folder: Path) -> Report:
    """A report folder, or the `report` in an output folder. Raises `ValueError` naming what is not there."""
    place = next((p for p in (folder, folder / "report") if (p / QUERIES).is_file()), None)
    if place is None:
        raise ValueError(
            f"{folder}: no report there ({QUERIES}); give a report folder or a run's output folder"
        )
    path = place / "report.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); write the report again") from None
    if not isinstance(about, dict):
        raise ValueError(f"{path}: not a report; write it again")
    return Report(place, about, read_queries(place / QUERIES))


def pair_reports(first: Path, second: Path, *, intersect: bool = False) -> Pair:
    """Raises `ValueError` where the reports are of different splits, or of different queries without
    `intersect`, or share none."""
    a, b = read_report(first), read_report(second)
    for key in SAME:
        if a.about.get(key) != b.about.get(key):
            raise ValueError(
                f"reports of different splits: {key} is {a.about.get(key)} in {a.folder}, "
                f"{b.about.get(key)} in {b.folder}"
            )
    remarks = []
    t2v_keys, t2v = _paired(a.queries.t2v, b.queries.t2v)
    v2t_keys, v2t = _paired(a.queries.v2t, b.queries.v2t)
    other = len(a.queries.t2v) + len(b.queries.t2v) - 2 * len(t2v)
    other += len(a.queries.v2t) + len(b.queries.v2t) - 2 * len(v2t)
    candidates = [report.about.get("videos") for report in (a, b)]
    if other and not intersect:
        raise ValueError(
            f"reports of different queries: {_what_differs(a, b)}; --intersect compares the rest"
        )
    if not len(t2v) or not len(v2t):
        raise ValueError(f"{a.folder}, {b.folder}: no query is in both reports")
    if other or candidates[0] != candidates[1]:
        remarks.append(
            f"the queries that both ranked, but among {candidates[0]} candidates in A and {candidates[1]} "
            "in B: fewer candidates make better ranks"
        )
    return Pair(a, b, t2v_keys, t2v, v2t, tuple(remarks))


def _paired(a: Mapping[Key, float], b: Mapping[Key, float]) -> tuple[list[Key], np.ndarray]:
    """Queries of both, in an order that does not depend on which report comes first."""
    keys = sorted(a.keys() & b.keys())
    return keys, np.array([(a[key], b[key]) for key in keys]).reshape(-1, 2)


def _what_differs(a: Report, b: Report) -> str:
    parts = []
    for name, one, two in (("A", a, b), ("B", b, a)):
        only = [key for key in one.queries.t2v if key not in two.queries.t2v]
        only += [key for key in one.queries.v2t if key not in two.queries.v2t]
        if only:
            some = ", ".join(repr(caption or video) for video, caption, _ in only[:_NAMED])
            parts.append(f"{len(only)} only in {name} ({some}{', ...' if len(only) > _NAMED else ''})")
    return ", ".join(parts)


def differences(pair: Pair, *, resamples: int, seed: int) -> dict[str, dict[str, Any]]:
    """For each R@K and MeanR of both directions: a, b, value (a - b), low, high, p, p_shown."""
    videos = np.unique([video for video, _, _ in pair.t2v_keys], return_inverse=True)[1]
    found = {}
    for direction, ranks, clusters in (("t2v", pair.t2v, videos), ("v2t", pair.v2t, None)):
        made = paired_bootstrap(ranks[:, 1], ranks[:, 0], clusters=clusters, resamples=resamples, seed=seed)
        for column, difference in made.items():
            a, b = (_figure(ranks[:, side], column) for side in (0, 1))
            found[f"{direction}/{column}"] = {
                "a": a,
                "b": b,
                "value": difference.value,
                "low": difference.low,
                "high": difference.high,
                "p": difference.p,
                "p_shown": _p(difference.p, resamples),
            }
    return found


def _figure(ranks: np.ndarray, column: str) -> float:
    if column == "MeanR":
        return float(ranks.mean())
    k = int(column.removeprefix("R@"))
    assert k in RECALL_AT
    return float(100.0 * (ranks <= k).mean())


def _p(p: float, resamples: int) -> str:
    """The smallest p that so many resamples can tell is 2 / (1 + resamples)."""
    least = 2 / (1 + resamples)
    if p <= least * 1.001:
        return f"<{least:.1g}"
    return f"{p:.2f}" if p >= 0.01 else f"{p:.1g}"


def sentence(name: str, difference: Mapping[str, Any]) -> str:
    """The difference of a figure in words; says when none has been shown."""
    value, p = difference["value"], difference["p_shown"]
    is_rank = name.endswith("MeanR")
    unit = "" if is_rank else " points"
    test = (
        f"95% {difference['low']:+.1f} to {difference['high']:+.1f}, p {p if p.startswith('<') else '= ' + p}"
    )
    if difference["p"] > SURE:
        return f"No difference shown in {name}: A - B = {value:+.1f}{unit} ({test})."
    better = (value < 0) == is_rank
    way = "lower" if value < 0 else "higher"
    return f"A's {name} is {abs(value):.1f}{unit} {way} ({test}): A is {'better' if better else 'worse'}."


def movement(pair: Pair) -> dict[str, Any]:
    """How many captions rank better or worse in A, and by what factor the rank of a typical one changed."""
    a, b = pair.t2v.T
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


def movers(pair: Pair, *, count: int) -> dict[str, list[dict[str, Any]]]:
    """The captions whose rank changed by the largest factor, each way: from 20 to 1 counts for more than
    from 900 to 500."""
    change = np.log(pair.t2v[:, 0] / pair.t2v[:, 1])
    found = {}
    for name, signed in (("better_in_a", change), ("worse_in_a", -change)):
        order = [i for i in np.argsort(signed, kind="stable")[:count].tolist() if signed[i] < 0]
        found[name] = [
            {
                "video": pair.t2v_keys[i][0],
                "caption": pair.t2v_keys[i][1],
                "a": float(pair.t2v[i, 0]),
                "b": float(pair.t2v[i, 1]),
            }
            for i in order
        ]
    return found
