"""queries.jsonl of a report: one line a query with its rank, so that two reports can be compared."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.atomic_files import ESCAPED
from common.errors import UserError, file_errors
from common.json_text import parse_json
from dataloaders.examples import Examples
from engine.evaluation.ranking import Rankings

FILE = "queries.jsonl"
Key = tuple[str, str, int]  # video, caption ("" for video to text), number among equal captions


RankAndTies = tuple[float, float]  # the expected rank, and how many other candidates have the same score


@dataclass(frozen=True)
class Queries:
    """Ranks by query, in the order of the file."""

    t2v: dict[Key, RankAndTies]
    v2t: dict[Key, RankAndTies]


def write_queries(path: Path, rankings: Rankings, examples: Examples) -> None:
    """Write the captions, then the videos.

    A caption has its video, its rank, the score of its video, and the first video with its score. A video has
    the rank of its caption set and the best rank of its captions among all captions. Ranks are expected
    ranks; `tied` is the number of other candidates with the score of the right one.
    """
    t2v, v2t, v2t_any = (r.expected for r in (rankings.t2v, rankings.v2t, rankings.v2t_any))
    with open(path, "w", encoding="utf-8", errors=ESCAPED, newline="\n") as file:
        for i, video in enumerate(examples.video_of_caption):
            line = {
                "direction": "t2v",
                "video": examples.video_ids[int(video)],
                "caption": examples.captions[i],
                "rank": float(t2v[i]),
                "tied": int(rankings.t2v.tied[i]),
                "score": _short(rankings.t2v_positive[i]),
                "first": examples.video_ids[int(rankings.t2v_top[i, 0])],
                "first_score": _short(rankings.t2v_top_scores[i, 0]),
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        for j in np.flatnonzero(~np.isnan(v2t)):
            line = {
                "direction": "v2t",
                "video": examples.video_ids[int(j)],
                "rank": float(v2t[j]),
                "tied": int(rankings.v2t.tied[j]),
                "rank_any": float(v2t_any[j]),
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def read_queries(path: Path) -> Queries:
    """The ranks in a file that `write_queries` wrote. Raises `UserError` with file and line.

    Older files have no `tied`; it is then read as 0.
    """
    queries = Queries({}, {})
    seen: Counter[tuple[str, str, str]] = Counter()
    try:
        with file_errors(path):
            lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    for number, text in enumerate(lines, start=1):
        if not text:
            continue
        try:
            line = parse_json(text)
            direction, video, rank = line["direction"], str(line["video"]), float(line["rank"])
            tied = float(line.get("tied", 0))
            ranks = {"t2v": queries.t2v, "v2t": queries.v2t}[direction]
            caption = str(line["caption"]) if direction == "t2v" else ""
        except (ValueError, KeyError, TypeError, OverflowError, AttributeError):
            raise UserError(
                f"{path}, line {number}: not a query of a report; write the report again"
            ) from None
        if not (math.isfinite(rank) and 0 <= tied <= 2 * (rank - 1)):
            raise UserError(f"{path}, line {number}: rank {rank} with {tied:g} ties; write the report again")
        ranks[video, caption, seen[direction, video, caption]] = rank, tied
        seen[direction, video, caption] += 1
    return queries


def _short(score: float) -> float:
    return round(float(score), 4)
