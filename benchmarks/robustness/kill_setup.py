"""Toy data of `kill_training.py`, and comparisons of its runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dataloaders.frame_store.reader import FrameStore
from dataloaders.frame_store.writer import FrameStoreWriter
from engine.checkpoint.states import list_states, newest_state, step_of
from engine.logs.steps_jsonl import read_steps
from tools import frame2lmdb
from tools.make_toy_dataset import SIZES, make_toy_dataset

CLIP = {
    "embed_dim": 64,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}
STORES = (
    ("chvtt", "videoinfo_lmdb", "videoinfo_videos.jsonl"),
    ("vatex", "vatex_lmdb", "videos.jsonl"),
    ("msrvtt", "msrvtt_lmdb", "videos.jsonl"),
)
# Everything that has a state: momentum encoders, four queues that wrap around, masked words, dropout.
PRETRAIN = ("--do_pretrain", "--dataset", "chvtt", "--language", "chinese", "--use_temp", "--use_frame_fea")
FINETUNE = ("--do_train", "--dataset", "msrvtt", "--language", "english", "--use_temp")
TIMES = ("clips_per_second", "clips_per_second_per_rank", "waiting", "memory_bytes", "seconds")


@dataclass(frozen=True)
class Toy:
    """The data folder, and the flags of runs on it."""

    data: Path
    clip: Path

    @classmethod
    def make(cls, folder: Path) -> Toy:
        data, clip = folder / "data", folder / "clip.json"
        make_toy_dataset(data, seed=0, sizes=SIZES["tiny"])
        for dataset, store, videos in STORES:
            flags = (
                "--video_dir",
                str(data / dataset / "videos"),
                "--lmdb_path",
                str(data / dataset / store),
            )
            listed = ("--json_path", str(data / dataset / videos), "--num_frames", "12")
            assert frame2lmdb.main([*flags, *listed, "--num_workers", "1"]) == 0
        clip.write_text(json.dumps(CLIP), encoding="utf-8")
        return cls(data, clip)

    def argv(self, out: Path, *flags: str, job: Sequence[str] = ()) -> list[str]:
        return [
            *(job or PRETRAIN),
            *("--output_dir", str(out), "--data_dir", str(self.data), "--clip_model", str(self.clip)),
            *("--clip_weights", "none", "--pretrained_text", str(self.data / "toy-bert")),
            *("--max_frames", "4", "--top_frames", "2", "--batch_size", "2", "--epochs", "4"),
            *("--n_display", "1", "--save_steps", "2", "--contrast_num_negative", "10", "--bootstrap", "0"),
            *("--select_on", "test", "--no-report", *flags),
        ]

    def broken_store(self) -> Path:
        """A copy of the pre-training store in which the frames of one clip are truncated."""
        store = FrameStore(self.data / "chvtt" / "videoinfo_lmdb")
        path = self.data / "broken_lmdb"
        with FrameStoreWriter(path) as writer:
            for number, video_id in enumerate(store.video_ids()):
                jpegs = store.read_jpegs(video_id, range(store.num_frames(video_id)))
                writer.put(video_id, [jpeg[:100] if number == 3 else jpeg for jpeg in jpegs])
            writer.finish()
        return path


def steps_recorded(out: Path) -> int:
    path = out / "steps.jsonl"
    records = read_steps(path) if path.exists() else []
    return records[-1]["step"] if records else 0


def resume_step(out: Path) -> int:
    """The step from which --resume auto will continue."""
    path, _ = newest_state(out)
    return step_of(path) if path else 0


def difference(out: Path, reference: Path) -> str:
    """ "bit for bit", or the first thing that differs."""
    for name in ("steps.jsonl", "metrics.jsonl"):
        if _lines(out / name) != _lines(reference / name):
            return f"{name} differs"
    unequal = _first_unequal(_state(out), _state(reference), "")
    return f"{unequal} differs" if unequal else "bit for bit"


def distance(out: Path, reference: Path) -> float:
    """Largest difference of a weight, as a share of the largest weight of its tensor."""
    one, other = _state(out)["model"], _state(reference)["model"]
    shares = [
        float((one[n] - t).abs().max() / t.abs().max().clamp_min(1e-12))
        for n, t in other.items()
        if t.is_floating_point() and t.numel()
    ]
    return max(shares)


def all_finite(out: Path) -> str:
    finite = all(bool(torch.isfinite(tensor).all()) for tensor in _state(out)["model"].values())
    return "not compared; all weights are finite" if finite else "weights are NOT finite"


def remarks(out: Path) -> str:
    """What the log of a finished run says about skipped steps and unreadable clips."""
    lines = (out / "log.txt").read_text(encoding="utf-8").splitlines()
    warnings = [line.partition("WARNING ")[2] for line in lines if "skipped epoch" in line]
    last = json.loads((out / "steps.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    return "; ".join(
        [*warnings, f"{last['skipped_steps']} steps skipped, {last['unreadable_clips']} clips replaced"]
    )


def _state(out: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(list_states(out)[0], weights_only=True)
    return {name: value for name, value in state.items() if name not in ("config", "results")}


def _lines(path: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [{n: v for n, v in r.items() if n not in TIMES and not n.startswith("checkpoint")} for r in lines]


def _first_unequal(one: Any, other: Any, where: str) -> str | None:
    if isinstance(one, torch.Tensor):
        return None if torch.equal(one, other) else where
    if isinstance(one, dict):
        pairs = [(f"{where}/{n}", one.get(n), other.get(n)) for n in sorted({*one, *other}, key=str)]
    elif isinstance(one, list) and len(one) == len(other):
        pairs = [(f"{where}/{n}", a, b) for n, (a, b) in enumerate(zip(one, other, strict=True))]
    else:
        return None if one == other else where
    return next((unequal for name, a, b in pairs if (unequal := _first_unequal(a, b, name))), None)
