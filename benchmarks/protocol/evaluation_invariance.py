"""Does the result of an evaluation depend on batch size, number of ranks or order? A table.

    python benchmarks/protocol/evaluation_invariance.py

150 videos with 3 captions each go through the evaluator: JPEG frames, a small model, features, ranks. Every
row is compared with one rank and batches of 16: how many ranks differ, and how much the features differ.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.protocol.evaluation_decoding import FRAMES, SIDE, WORDS, CountingStore, SmallModel, Words
from dataloaders.examples import Examples, PackedStrings
from dataloaders.loader import ShardSampler, build_loader
from dataloaders.video_text import VideoTextDataset
from engine.distributed.world import World
from engine.evaluation.encode import Evaluator
from engine.logs.run_log import RunLog
from modules.heads.hmmc import hmmc_head

VIDEOS, CAPTIONS = 150, 450
COMPARED = ("t2v", "v2t", "v2t_any")
Shot = dict[str, np.ndarray]


def examples(seed: int | None) -> tuple[Examples, np.ndarray, np.ndarray]:
    """The split, with captions and videos shuffled by `seed`, and their numbers in the original order."""
    rng = np.random.default_rng(1)
    texts = [" ".join(f"word{k}" for k in rng.integers(0, 999, size=8)) for _ in range(CAPTIONS)]
    captions, videos = np.arange(CAPTIONS), np.arange(VIDEOS)
    if seed is not None:
        order = np.random.default_rng(seed)
        captions, videos = order.permutation(CAPTIONS), order.permutation(VIDEOS)
    split = Examples(
        video_ids=PackedStrings.from_iterable(f"v{number}" for number in videos),
        captions=PackedStrings.from_iterable(texts[i] for i in captions),
        video_of_caption=np.argsort(videos)[captions % VIDEOS],
    )
    return split, captions, videos


def run(world: World, *, batch: int, seed: int | None) -> Shot:
    """Features and ranks in the original order."""
    torch.manual_seed(0)
    split, captions, videos = examples(seed)
    store = CountingStore(VIDEOS)

    def loader(view: str) -> torch.utils.data.DataLoader:
        dataset = VideoTextDataset(
            split, store, Words(), view=view, max_words=WORDS, max_frames=FRAMES, image_size=SIDE
        )
        sampler = ShardSampler(len(dataset), rank=world.rank, world_size=world.size)
        return build_loader(dataset, sampler, batch_size=batch, num_workers=0, pin_memory=False)

    with tempfile.TemporaryDirectory() as folder:
        evaluator = Evaluator(
            videos=loader("videos"),
            captions=loader("captions"),
            video_of_caption=split.video_of_caption,
            world=world,
            log=RunLog(Path(folder), active=False),
            max_frames=FRAMES,
            logit_scale=100.0,
        )
        features = evaluator.encode(SmallModel())  # type: ignore[arg-type]
        ranks = evaluator.compute_metrics(features, hmmc_head()).rankings
    assert store.reads == len(evaluator.videos.sampler)  # type: ignore[arg-type]
    back = np.argsort(videos)
    shot = {"video": features.video.numpy()[back], "t2v": ranks.t2v.expected[np.argsort(captions)]}
    return shot | {name: getattr(ranks, name).expected[back] for name in ("v2t", "v2t_any")}


def _rank(number: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=number, world_size=size)
    shot = run(World(number, size, torch.device("cpu")), batch=16, seed=None)
    np.savez(Path(folder, f"{number}.npz"), **shot)  # type: ignore[arg-type]
    dist.destroy_process_group()


def over_ranks(size: int) -> list[Shot]:
    """The results of each of `size` ranks."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank, args=(size, folder), nprocs=size)
        return [dict(np.load(Path(folder, f"{number}.npz"))) for number in range(size)]


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    torch.set_num_threads(1)
    world = World(0, 1, torch.device("cpu"))
    plain = run(world, batch=16, seed=None)
    print(
        f"| evaluated with | {' | '.join(f'{n} ranks that differ' for n in COMPARED)} | features differ by |"
    )
    print("| --- | ---: | ---: | ---: | ---: |")
    for batch in (1, 7, 1000):
        _row(f"batches of {batch}", run(world, batch=batch, seed=None), plain)
    for size in (2, 4):
        for number, shot in enumerate(over_ranks(size)):
            _row(f"{size} ranks, as rank {number} has it", shot, plain)
    for seed in (0, 1):
        _row(f"captions and videos shuffled, seed {seed}", run(world, batch=16, seed=seed), plain)


def _row(name: str, shot: Shot, plain: Shot) -> None:
    differing = [int((shot[part] != plain[part]).sum()) for part in COMPARED]
    size = np.abs(shot["video"] - plain["video"]).max() / np.abs(plain["video"]).max()
    print(f"| {name} | {' | '.join(map(str, differing))} | {size:.1e} |", flush=True)


if __name__ == "__main__":
    main()
