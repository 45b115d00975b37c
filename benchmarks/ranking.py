"""Time and peak memory of ranking where captions x videos x frames numbers would not fit in memory.

    python benchmarks/ranking.py                 150,000 captions x 100,000 videos x 12 frames, 4 GiB
    python benchmarks/ranking.py --scale 0.01    a hundredth of each

Features are synthetic: a caption is its video plus noise. Frames are float16 and are converted tile by tile;
ranks are computed in float32. The system limits the memory (RLIMIT_DATA: all private memory that is
allocated), so a run that needs more fails. At small sizes the ranks are compared with those of the complete
matrix.
"""

from __future__ import annotations

import argparse
import platform
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.evaluation.features import Features
from engine.evaluation.metrics import all_metrics
from engine.evaluation.ranking import Rankings, rank
from modules.heads.hmmc import hmmc_head, hmmc_similarity

CAPTIONS, VIDEOS = 150_000, 100_000
COMPARED = 4_000_000  # up to so many pairs are also ranked with the complete matrix
CHUNK = 2_000
SHOWN = ("t2v/R@1", "t2v/R@10", "t2v/MeanR", "v2t/R@1", "v2t/MeanR", "v2t_any/R@1")


def synthetic(captions: int, videos: int, *, frames: int, width: int) -> tuple[Features, np.ndarray]:
    """Random videos; their frames and captions are noisy copies, made in chunks."""
    generator = torch.Generator().manual_seed(0)
    video = torch.randn(videos, width, generator=generator)
    frame = torch.empty(videos, frames, width, dtype=torch.float16)
    for start in range(0, videos, CHUNK):
        part = video[start : start + CHUNK, None]
        frame[start : start + CHUNK] = part + torch.randn(len(part), frames, width, generator=generator)
    owner = np.arange(captions) % videos
    text = torch.empty(captions, width)
    for start in range(0, captions, CHUNK):
        part = video[owner[start : start + CHUNK]]
        text[start : start + CHUNK] = part + 5 * torch.randn(len(part), width, generator=generator)
    return Features(text, video, frame), owner


def compare(rankings: Rankings, features: Features, owner: np.ndarray) -> str:
    """Compare with ranks from the complete matrix, of text to video and of caption sets."""
    scores = hmmc_similarity(features.text, features.video, features.frames, top_frames=3, logit_scale=100.0)
    positive = scores[torch.arange(len(owner)), torch.from_numpy(owner)][:, None]
    t2v = 1 + (scores > positive).sum(dim=1).numpy() + 0.5 * ((scores == positive).sum(dim=1).numpy() - 1)
    captions = [torch.from_numpy(np.flatnonzero(owner == video)) for video in range(scores.shape[1])]
    sets = torch.stack([scores[mine].amax(dim=0) for mine in captions])
    best = sets.diagonal()
    v2t = 1 + (sets > best).sum(dim=0).numpy() + 0.5 * ((sets == best).sum(dim=0).numpy() - 1)
    differing = (t2v != rankings.t2v.expected).sum(), (v2t != rankings.v2t.expected).sum()
    return "ranks that differ from the complete matrix: t2v {}, v2t {}".format(*differing)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="share of captions and of videos")
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--limit", type=float, default=4.0, help="memory limit of the process in GiB")
    arguments = parser.parse_args()
    limit = int(arguments.limit * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    captions, videos = (max(1, int(size * arguments.scale)) for size in (CAPTIONS, VIDEOS))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    features, owner = synthetic(captions, videos, frames=arguments.frames, width=arguments.width)
    started = time.perf_counter()
    rankings = rank(features, owner, head=hmmc_head(), logit_scale=100.0)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    values = all_metrics(rankings)
    speed = captions * videos / seconds / 1e6
    print(f"{captions:,} captions x {videos:,} videos x {arguments.frames} frames, width {arguments.width}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}")
    print(f"both directions ranked in {seconds:.1f} s, {speed:.1f} million pairs a second")
    print(f"peak memory {peak:.2f} GiB ({before:.2f} GiB before features), limit {arguments.limit:g} GiB")
    print("  ".join(f"{name} {values[name]:.2f}" for name in SHOWN))
    if captions * videos <= COMPARED:
        print(compare(rankings, features, owner))


if __name__ == "__main__":
    main()
