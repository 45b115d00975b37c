"""Speed of an evaluation: encoding clips and captions, and ranking them.

    python benchmarks/evaluate.py --precision bf16 fp32 --json evaluate.json
    python benchmarks/evaluate.py --scale 1               ranks 150,000 captions x 100,000 videos x 12 frames
    python benchmarks/evaluate.py --clips 8 --frames 2 --scale 0.004        a CPU

Encoding is the evaluator's own, with random weights and frames, in batches as the program makes them (at most
256 MiB of float frames). They lie in pinned memory, as from a loader that is always ready. Ranking takes
random features of width 512 on the device and float32 products; up to 4 million pairs are also ranked with
tiles of another size, and ranks that differ are counted. `benchmarks/ranking.py` limits the memory of a CPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.report_json import Report, add_json_flag
from benchmarks.step_setup import (
    COUNTED_CLIPS,
    Work,
    make_batch,
    make_model,
    matrix_rate,
    now,
    peak_gib,
    restart_peak,
    sizes_of,
)
from common.arguments import ArgumentParser
from common.errors import UserError, run_program
from engine.distributed.device import default_device, to_device
from engine.distributed.precision import AUTOCAST, autocast, settle_precision
from engine.distributed.world import World
from engine.evaluation.encode import Evaluator
from engine.evaluation.features import Features
from engine.evaluation.metrics import all_metrics
from engine.evaluation.ranking import Rankings, rank
from engine.evaluation.similarity import GRAIN, ScoreTiles
from engine.loaders import EVALUATION_BYTES
from engine.logs.run_log import RunLog
from modules.dual_encoder import DualEncoder
from modules.heads.hmmc import hmmc_head

CAPTIONS, VIDEOS, WIDTH = 150_000, 100_000, 512
COMPARED = 4_000_000  # pairs
HEAD, LOGIT_SCALE = hmmc_head(top_frames=3), 100.0
CAPTION_BATCH, CHUNK = 1024, 4096
COLUMNS = {
    "clips_per_second": "clips/s",
    "captions_per_second": "captions/s",
    "million_pairs_per_second": "million pairs/s",
    "seconds": "seconds",
    "tflops": "TFLOP/s",
    "share_of_matrix_rate": "of the matrix rate",
    "memory_gib": "memory, GiB",
}


class Repeated:
    """A loader of `count` samples: one batch again and again."""

    def __init__(self, batch: dict[str, Tensor], count: int) -> None:
        self.batch, self.count = batch, count
        self.size = len(next(iter(batch.values())))

    def __len__(self) -> int:
        return -(-self.count // self.size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for start in range(0, self.count, self.size):
            rows = min(self.size, self.count - start)
            yield self.batch if rows == self.size else {k: v[:rows] for k, v in self.batch.items()}


def encode(work: Work, precision: str, device: torch.device) -> dict[str, Any]:
    """Figures of encoding `work.clips` clips, and three captions for each."""
    world = World(0, 1, device)
    settled, _ = settle_precision(precision, world)
    model, size = make_model(work, device)
    clips = max(1, min(work.clips, EVALUATION_BYTES // (4 * 3 * work.frames * size**2)))
    batch = make_batch(work, size, clips=clips, **sizes_of(model))
    texts = make_batch(Work(frames=1), 1, clips=CAPTION_BATCH, **sizes_of(model))

    def evaluator(clips: int) -> Evaluator:
        loaders: list[Any] = [
            Repeated({name: batch[name] for name in ("frames", "frame_mask")}, clips),
            Repeated({name: texts[name] for name in ("text_ids", "text_mask")}, 3 * clips),
        ]
        return Evaluator(
            *loaders,
            video_of_caption=np.arange(3 * clips) % clips,
            world=world,
            log=RunLog(Path(), active=False),
            max_frames=work.frames,
            logit_scale=LOGIT_SCALE,
            precision=settled,
        )

    evaluator(2 * clips).encode(model)  # warm-up
    restart_peak(device)
    started = now(device)
    videos_only = evaluator(work.clips)
    texts_loader: Any = videos_only.captions
    videos_only.encode_texts(model, texts_loader, "")
    text_seconds = now(device) - started
    started = now(device)
    videos_only.encode(model)
    seconds = now(device) - started - text_seconds
    flop = _forward_flop(model, batch, settled, device)
    dtype = AUTOCAST.get(settled, torch.float32)
    rate = None if settled == "tf32" else matrix_rate(device, dtype)
    tflops = flop * work.clips / seconds / 1e12
    return {
        "precision": settled,
        "clips_per_second": work.clips / seconds,
        "captions_per_second": 3 * work.clips / text_seconds,
        "seconds": seconds,
        "tflops": tflops,
        "matrix_tflops": rate,
        "share_of_matrix_rate": tflops / rate if rate else None,
        "memory_gib": peak_gib(device),
        "batch": clips,
    }


def _forward_flop(
    model: DualEncoder, batch: dict[str, Tensor], precision: str, device: torch.device
) -> float:
    """Operations of encoding one clip."""
    few = to_device({name: rows[:COUNTED_CLIPS] for name, rows in batch.items()}, device)
    with torch.inference_mode(), autocast(precision, device), FlopCounterMode(display=False) as counter:
        model.encode_video(few["frames"], few["frame_mask"])
    return counter.get_total_flops() / len(few["frames"])


def synthetic(captions: int, videos: int, frames: int, device: torch.device) -> tuple[Features, np.ndarray]:
    """Random videos; their frames and captions are noisy copies. All on `device`, made in chunks."""
    generator = torch.Generator(device).manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    owner = torch.arange(captions, device=device) % videos
    video, text = noise(videos, WIDTH), torch.empty(captions, WIDTH, device=device)
    frame = torch.empty(videos, frames, WIDTH, device=device)
    for start in range(0, videos, CHUNK):
        part = video[start : start + CHUNK, None]
        frame[start : start + CHUNK] = part + noise(len(part), frames, WIDTH)
    for start in range(0, captions, CHUNK):
        part = video[owner[start : start + CHUNK]]
        text[start : start + CHUNK] = part + 5 * noise(*part.shape)
    return Features(text, video, frame), owner.cpu().numpy()


def ranked(features: Features, owner: np.ndarray, tile: int) -> Rankings:
    sides = (tile, tile) if tile else None
    return rank(features, owner, head=HEAD, logit_scale=LOGIT_SCALE, tile=sides)


def ranking(captions: int, videos: int, frames: int, tile: int, device: torch.device) -> dict[str, Any]:
    """Figures of ranking `captions` x `videos` in tiles of `tile` (0: the program's own)."""
    few, owners = synthetic(min(captions, 300), min(videos, 200), frames, device)
    ranked(few, owners, tile)  # warm-up
    features, owner = synthetic(captions, videos, frames, device)
    restart_peak(device)
    started = now(device)
    rankings = ranked(features, owner, tile)
    seconds = now(device) - started
    tiles = ScoreTiles(features, HEAD, logit_scale=LOGIT_SCALE, tile=(tile, tile) if tile else None)
    figures = {
        "million_pairs_per_second": captions * videos / seconds / 1e6,
        "seconds": seconds,
        "tflops": 2 * captions * videos * (frames + 1) * WIDTH / seconds / 1e12,
        "memory_gib": peak_gib(device),
        "tile": tiles.height,
        "t2v_R1": all_metrics(rankings)["t2v/R@1"],
    }
    if captions * videos <= COMPARED:
        other = ranked(features, owner, 2 * GRAIN if tiles.height != 2 * GRAIN else GRAIN)
        figures["ranks_that_differ"] = sum(
            int((one != two).sum())
            for one, two in (
                (rankings.t2v.expected, other.t2v.expected),
                (rankings.v2t.expected, other.v2t.expected),
            )
        )
    return figures


def main(argv: Sequence[str] | None = None) -> int:
    return run_program("evaluate.py", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clip_model", default="ViT-B-32-quickgelu")
    parser.add_argument("--precision", nargs="+", default=["auto"])
    parser.add_argument("--clips", type=int, default=2000, help="clips that are encoded; 0: only rank")
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument(
        "--scale", type=float, default=0.1, help="share of 150,000 captions and 100,000 videos; 0"
    )
    parser.add_argument(
        "--tile", type=int, nargs="+", default=[0], help="sides of tiles; 0: the program's own"
    )
    add_json_flag(parser)
    args = parser.parse_args(argv)
    if args.frames < 1 or args.clips < 0 or args.scale < 0:
        raise UserError("--frames must be at least 1, --clips and --scale at least 0")
    device = default_device()
    report = Report("evaluate", settings=vars(args), columns=COLUMNS)
    for precision in args.precision if args.clips else ():
        work = Work(args.clip_model, False, args.clips, args.frames)
        figures = encode(work, precision, device)
        report.add(f"encoding, {args.clip_model}, {precision}", **figures)
        report.close(args.json)
    for tile in args.tile if args.scale else ():
        captions, videos = (max(1, round(size * args.scale)) for size in (CAPTIONS, VIDEOS))
        name = f"ranking, {captions:,} x {videos:,} x {args.frames}" + (f", tile {tile}" if tile else "")
        report.add(name, **ranking(captions, videos, args.frames, tile, device))
        report.close(args.json)
    for row in report.rows:
        if row.get("ranks_that_differ") is not None:
            report.note(f"{row['row']}: {row['ranks_that_differ']} ranks differ with another tile")
    report.close(args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
