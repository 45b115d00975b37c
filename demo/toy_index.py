"""All that the demo needs, from nothing: toy videos, a model trained on them for a minute, an index.

The steps are the programs that a user would start, one process each. What ended leaves a mark, what was cut
off is done anew. `demo.json` is written last: without it nothing is taken for whole.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.atomic_files import write_text
from common.locks import FileLock, LockedError
from search.index_format import LOCK_FILE

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "runs" / "toy_demo"
LANGUAGES = ("english", "chinese")
SEED = 0
RECIPE = 1  # raise it when the steps change: folders of older ones are made anew
READY_FILE = "demo.json"
EXAMPLES = 5
_CAPTIONS = {"english": "enCap", "chinese": "chCap"}
_TEXT_LR = {"english": "2.5e-3", "chinese": "4e-4"}
_PROGRESS = re.compile(r"epoch \d+/\d+ step .*|text to video.*")  # of the training's log


@dataclass(frozen=True)
class Scale:
    """How much is drawn and learned: `size` of tools/make_toy_dataset.py, passes over its training videos."""

    size: str = "default"
    epochs: int = 4
    batch: int = 32


@dataclass(frozen=True)
class ToyDemo:
    """What is ready: the index, and captions of its videos to try."""

    index: Path
    language: str
    examples: tuple[str, ...]
    figures: str

    @property
    def remark(self) -> str:
        """What the page says of the model."""
        return (
            "This is a toy model, trained for a minute. It knows coloured squares, triangles and rings that "
            "move, turn, grow or change, and nothing else."
        )


def prepare(
    folder: Path = FOLDER,
    language: str = "english",
    *,
    scale: Scale | None = None,
    say: Callable[[str], None] = print,
) -> ToyDemo:
    """The toy demo in `folder`, made where it is not there yet.

    Raises `ValueError` naming the step that failed, or the process that prepares the same folder just now.
    """
    scale = scale or Scale()
    place = folder / language
    recipe = {"recipe": RECIPE, "seed": SEED, "language": language, **vars(scale)}
    ready = read_ready(place, recipe)
    if ready:
        return ready
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_FILE)
    except LockedError:
        raise ValueError(f"{folder}: another process prepares this folder; wait for it") from None
    with lock:
        return read_ready(place, recipe) or _Preparation(folder, place, recipe, scale, say).run()


def read_ready(place: Path, recipe: dict[str, Any]) -> ToyDemo | None:
    """What was made before by the same recipe; None where anything is missing."""
    try:
        found = json.loads((place / READY_FILE).read_text(encoding="utf-8"))
        if found["recipe"] != recipe or not (place / "index" / "index.json").is_file():
            return None
        return ToyDemo(place / "index", recipe["language"], tuple(found["examples"]), found["figures"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


class _Preparation:
    """The steps, each in its own folder below `place`; drawn videos are shared by the languages."""

    def __init__(
        self,
        folder: Path,
        place: Path,
        recipe: dict[str, Any],
        scale: Scale,
        say: Callable[[str], None],
    ) -> None:
        self.data = folder / f"data-{scale.size}"
        self.set = self.data / "vatex"
        self.place = place
        self.language: str = recipe["language"]
        self.recipe = recipe
        self.scale = scale
        self.say = say
        self.started = time.monotonic()

    def run(self) -> ToyDemo:
        """All steps that are not done yet."""
        self._forget_other_recipes()
        self._step("drawing toy videos", self.data, self._draw)
        self._step("text encoder", self.data / "toy-bert-ready", self._ready_bert)
        self._step("frame store", self.set / "vatex_lmdb", self._store)
        self._step(f"training, {self.language}", self.place / "model", self._train)
        self._step("index", self.place / "index", self._index)
        examples, figures = self._examples(), self._figures()
        found = {"recipe": self.recipe, "examples": examples, "figures": figures}
        write_text(self.place / READY_FILE, json.dumps(found, ensure_ascii=False, indent=1) + "\n")
        self._tell("ready")
        return ToyDemo(self.place / "index", self.language, tuple(examples), figures)

    def _forget_other_recipes(self) -> None:
        note = self.place / "recipe.json"
        wanted = json.dumps(self.recipe)
        if not note.is_file() or note.read_text(encoding="utf-8") != wanted:
            shutil.rmtree(self.place, ignore_errors=True)
            self.place.mkdir(parents=True)
            write_text(note, wanted)

    def _step(self, name: str, product: Path, work: Callable[[], None]) -> None:
        mark = product.with_name(f"{product.name}.done")
        if mark.is_file() and product.exists():
            return
        mark.unlink(missing_ok=True)
        shutil.rmtree(product, ignore_errors=True)
        self._tell(name)
        work()
        write_text(mark, "")

    def _draw(self) -> None:
        size = ("--seed", str(SEED), "--size", self.scale.size)
        self._program("tools/make_toy_dataset.py", "--out", self.data, *size, "--only", "vatex", "toy-bert")

    def _ready_bert(self) -> None:
        """A copy of the toy BERT that learns from its first steps on.

        Its random weights are those that BERT's pre-training starts from: so small, and dropout so large
        beside them, that for some hundred steps all texts look alike.
        """
        from safetensors.torch import load_file, save_file

        made, ready = self.data / "toy-bert", self.data / "toy-bert-ready"
        shutil.copytree(made, ready)
        config = json.loads((made / "config.json").read_text(encoding="utf-8"))
        config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        write_text(ready / "config.json", json.dumps(config, indent=1) + "\n")
        weights = load_file(made / "model.safetensors")
        for name, weight in weights.items():
            if weight.ndim == 2 and "embeddings" not in name:
                weight *= weight.shape[1] ** -0.5 / config["initializer_range"]  # a variance of 1 / inputs
        save_file(weights, ready / "model.safetensors", metadata={"format": "pt"})

    def _store(self) -> None:
        self._program(
            *(
                "tools/frame2lmdb.py",
                "--video_dir",
                self.set / "videos",
                "--lmdb_path",
                self.set / "vatex_lmdb",
            ),
            *("--json_path", self.set / "videos.jsonl", "--num_frames", "12", "--num_workers", "2"),
        )

    def _train(self) -> None:
        self._program(
            *("main_task_retrieval.py", "--do_train", "--dataset", "vatex", "--language", self.language),
            *("--output_dir", self.place / "model", "--data_dir", self.data, "--seed", str(SEED)),
            *(
                "--clip_model",
                "toy",
                "--clip_weights",
                "none",
                "--pretrained_text",
                self.data / "toy-bert-ready",
            ),
            *("--use_temp", "--use_frame_fea", "--temporal_layers", "2", "--max_frames", "4"),
            *("--max_words", "24", "--top_frames", "3", "--frame_sample", "uniform_random"),
            *("--lr", "2.5e-3", "--text_lr", _TEXT_LR[self.language], "--epochs", str(self.scale.epochs)),
            *("--batch_size", str(self.scale.batch), "--batch_size_val", "128", "--num_thread_reader", "2"),
            *("--n_display", "25", "--save_steps", "0", "--no-report", "--bootstrap", "0"),
        )

    def _index(self) -> None:
        """Of the test videos: the model has seen none of them."""
        videos = self.place / "videos"
        shutil.rmtree(videos, ignore_errors=True)
        videos.mkdir()
        for number, name in enumerate(self._test_names(), start=1):
            shutil.copyfile(self.set / "videos" / f"{name}.mp4", videos / f"toy-{number:03d}.mp4")
        checkpoint = self.place / "model" / f"pytorch_model.bin.{self.scale.epochs - 1}"
        self._program(
            *("tools/search.py", "index", "--video_dir", videos, "--init_model", checkpoint),
            *("--out", self.place / "index", "--num_workers", "2"),
        )

    def _test_names(self) -> list[str]:
        return (self.set / "test_list.txt").read_text(encoding="utf-8").split()

    def _examples(self) -> list[str]:
        """The shortest caption of some videos, spread over the list."""
        captions = json.loads((self.set / "vatex_data.json").read_text(encoding="utf-8"))
        names = self._test_names()
        chosen = names[:: max(1, len(names) // EXAMPLES)][:EXAMPLES]
        return list(dict.fromkeys(min(captions[name][_CAPTIONS[self.language]], key=len) for name in chosen))

    def _figures(self) -> str:
        """What the training measured at its end on the indexed videos."""
        line = (self.place / "model" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1]
        values = json.loads(line)
        return ", ".join(f"{name} {values[f't2v/{name}']:.0f}" for name in ("R@1", "R@5", "R@10"))

    def _tell(self, what: str) -> None:
        self.say(f"toy demo, {time.monotonic() - self.started:3.0f} s: {what}")

    def _program(self, program: str, *arguments: str | Path) -> None:
        """Run a program of the project; its output is shown where it tells of progress, or why it failed."""
        command = [sys.executable, str(ROOT / program), *map(str, arguments)]
        # Threads that spin while they wait slow down all else on a small machine.
        quiet = {"OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, **quiet},
            cwd=ROOT,
        )
        assert process.stdout is not None
        last: list[str] = []
        try:
            for line in process.stdout:
                last = [*last[-4:], line.strip()]
                if shown := _PROGRESS.search(line):
                    self.say("    " + shown.group()[:80])
            code = process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
        if code:
            told = next((line for line in reversed(last) if line), "no output")
            raise ValueError(f"{program} ended with {code}: {told}")
