"""Speed and R@1 of a model in torch, in onnxruntime, and quantised to int8, on one thread.

    python benchmarks/onnx_towers.py MODEL [--toy runs/toy_demo] [--out RESULTS.md]

MODEL: as for tools/export_onnx.py. Speed is that of the encoders alone, on random frames and short texts, by
processor time, the fastest of --rounds: others that use the machine do not count. `--toy`: the folder of
tools/demo.py --toy; R@1 is that of the captions of its test videos, whose frames are decoded once.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.arguments import ArgumentParser
from common.atomic_files import check_target, write_text
from common.errors import run_program
from hmmc.model import VideoTextModel, load_model
from tools.export.onnx_files import export_model, session_of

TEXTS = ["a man is singing", "a red square and then a blue ring", "two dogs run in the snow", "rain"]


class OnnxTowers:
    """`encode_video` and `encode_words` of a model, by ONNX files."""

    def __init__(self, folder: Path, suffix: str, model: VideoTextModel) -> None:
        self._video = session_of(folder / f"video{suffix}", threads=1)
        self._text = session_of(folder / f"text{suffix}", threads=1)
        self._words = model.model.encode_words

    def encode_video(self, frames: torch.Tensor, mask: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        video, each = self._video.run(None, {"frames": frames.numpy()})
        return torch.from_numpy(video), torch.from_numpy(each)

    def encode_words(
        self, ids: torch.Tensor, mask: torch.Tensor, language: Any = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        given = {"ids": ids.numpy(), "mask": mask.numpy()}
        (text,) = self._text.run(None, {entry.name: given[entry.name] for entry in self._text.get_inputs()})
        return torch.from_numpy(text), torch.zeros(len(text), 1, text.shape[1])


def fastest(run: Callable[[], object], rounds: int) -> float:
    """Seconds of processor time."""
    times = []
    for _ in range(rounds + 1):  # the first one warms up
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times[1:])


def speeds(model: VideoTextModel, rounds: int) -> tuple[float, float]:
    """Frames and texts a second."""
    side = model.preprocess([np.zeros((8, 8, 3), np.uint8)]).shape[-1]
    frames = torch.randint(0, 256, (1, model.frames, 3, side, side), dtype=torch.uint8)
    ids, mask = model.tokenize(TEXTS)
    language = torch.zeros(len(TEXTS), dtype=torch.long)
    with torch.inference_mode():
        clip = fastest(lambda: model.model.encode_video(frames), rounds)
        text = fastest(lambda: model.model.encode_words(ids, mask, language), rounds)
    return model.frames / clip, len(TEXTS) / text


def toy_clips(folder: Path, model: VideoTextModel) -> tuple[list[torch.Tensor], list[str], np.ndarray]:
    """Clips of the test videos, their captions, and the number of the video of each caption."""
    (data,) = folder.glob("data-demo/vatex")
    names = (data / "test_list.txt").read_text(encoding="utf-8").split()
    content = json.loads((data / "vatex_data.json").read_text(encoding="utf-8"))
    clips = [model.preprocess(data / "videos" / f"{name}.mp4") for name in names]
    captions = [caption for name in names for caption in content[name]["enCap"]]
    videos = [number for number, name in enumerate(names) for _ in content[name]["enCap"]]
    return clips, captions, np.array(videos)


def recall(model: VideoTextModel, clips: list[torch.Tensor], texts: list[str], right: np.ndarray) -> float:
    """R@1 from text to video, in percent."""
    with torch.inference_mode():
        video, each = model.model.encode_video(torch.stack(clips))
        scores = model.head(model._text_rows(texts, "english"), {"video": video, "frames": each})
    return 100 * float((scores.argmax(dim=1).numpy() == right).mean())


def measure(args: argparse.Namespace) -> str:
    """The table."""
    torch.set_num_threads(1)
    model = load_model(args.model, device="cpu")
    toy = toy_clips(args.toy, model) if args.toy else None
    lines = [
        "| | video MB | text MB | frames/s | texts/s | R@1 |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    with tempfile.TemporaryDirectory() as folder:
        sizes = {file.path.name: file.bytes / 1e6 for file in export_model(model, Path(folder), int8=True)}
        for name, suffix in (("torch", None), ("onnxruntime", ".onnx"), ("onnxruntime, int8", ".int8.onnx")):
            if suffix is not None:
                towers = OnnxTowers(Path(folder), suffix, model)
                model.model.encode_video = towers.encode_video  # type: ignore[method-assign]
                model.model.encode_words = towers.encode_words  # type: ignore[method-assign]
            megabytes = [f"{sizes[f'{tower}{suffix}']:.1f}" if suffix else "" for tower in ("video", "text")]
            frames, texts = speeds(model, args.rounds)
            found = f"{recall(model, *toy):.1f}" if toy else ""
            lines.append(f"| {name} | {' | '.join(megabytes)} | {frames:,.1f} | {texts:,.1f} | {found} |")
            print(lines[-1], file=sys.stderr)
    return "\n".join(lines) + "\n"


def build_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--toy", type=Path, metavar="FOLDER", help="folder of tools/demo.py --toy, English")
    parser.add_argument("--rounds", type=int, default=10, help="measurements; the fastest counts")
    parser.add_argument("--out", type=Path, default=Path("-"), help="Markdown file for the table")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    check_target(args.out, "--out")

    def body() -> int:
        write_text(args.out, measure(args))
        return 0

    return run_program("onnx_towers.py", body)


if __name__ == "__main__":
    sys.exit(main())
