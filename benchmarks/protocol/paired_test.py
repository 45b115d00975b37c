"""Is the p-value of `tools/compare_reports.py` right where two models are equally good?

    python benchmarks/protocol/paired_test.py

Simulates comparisons of two equally good models on a few videos, with five captions each whose ranks are
similar. Prints in how many of them p is at most 0.05, which should be at most 5%: per metric the smallest and
the largest share over the seeds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from engine.evaluation.paired_test import paired_test
from engine.evaluation.ranks import Ranks, single_ranks

VIDEOS = (5, 10, 20, 50, 120)
CAPTIONS = 5
METRICS = ("R@1", "R@5", "MeanR")
SEEDS = 3


def random_ranks(random: np.random.Generator, videos: int) -> Ranks:
    """Ranks of `CAPTIONS` captions for each video: one random rank of the video, plus 0 or 1."""
    ranks = np.repeat(random.geometric(0.3, videos), CAPTIONS) + random.integers(0, 2, videos * CAPTIONS)
    return single_ranks(ranks.astype(float))


def shares(videos: int, *, trials: int, samples: int, seed: int) -> list[float]:
    """Percent of the trials with p at most 0.05, one for each of `METRICS`."""
    random = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(videos), CAPTIONS)
    small = np.zeros(len(METRICS))
    for trial in range(trials):
        a, b = (random_ranks(random, videos) for _ in range(2))
        found = paired_test(a, b, clusters=clusters, samples=samples, seed=trial).differences
        small += [found[name].p <= 0.05 for name in METRICS]
    return [100.0 * share for share in small / trials]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--trials", type=int, default=1000, help="comparisons for each seed (default %(default)s)"
    )
    parser.add_argument("--samples", type=int, default=1000, help="sign vectors drawn (default %(default)s)")
    arguments = parser.parse_args()
    print("| videos | " + " | ".join(METRICS) + " |\n| ---: |" + " ---: |" * len(METRICS))
    for videos in VIDEOS:
        rows = [
            shares(videos, trials=arguments.trials, samples=arguments.samples, seed=seed)
            for seed in range(SEEDS)
        ]
        columns = zip(*rows, strict=True)
        print(
            f"| {videos} | " + " | ".join(f"{min(c):.1f} to {max(c):.1f} %" for c in columns) + " |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
