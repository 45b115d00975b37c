"""Makes what the toy demo needs: toy videos, a model trained on them for minutes, an index of simple ones.

Each step runs a program of the project in a process of its own. A finished step writes a `.done` file; an
interrupted step starts again. `demo.json` is written last: without it the demo is not complete.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.atomic_files import write_json, write_text
from common.commands import process_of
from common.errors import UserError, file_errors
from common.locks import FileLock, LockedError
from dataloaders.datasets import vatex

FOLDER = Path("runs") / "toy_demo"
LANGUAGES = ("english", "chinese", "bilingual")
SEED = 0
RECIPE = 2  # raise it when the steps change: then older folders are made again
READY_FILE = "demo.json"
LOCK_FILE = "writer.lock"
EXAMPLES = 5
_CAPTIONS = {"english": ("enCap",), "chinese": ("chCap",), "bilingual": ("enCap", "chCap")}
_REMARKS = {
    "english": "A toy model: it knows coloured shapes, such as a red square and then a blue ring.",
    "chinese": "这是一个玩具模型,只认识彩色图形,例如先是一个红色的正方形,然后是一个蓝色的圆环。",
}
_REMARKS["bilingual"] = f"{_REMARKS['english']} {_REMARKS['chinese']}"
_PROGRESS = re.compile(r"epoch \d+/\d+ step .*|text to video.*")  # lines of the training's log


@dataclass(frozen=True)
class Stage:
    """One run of the training: its epochs and learning rates."""

    epochs: int
    lr: float
    text_lr: float


@dataclass(frozen=True)
class Scale:
    """`size` for tools/make_toy_dataset.py, batch size, and the runs of the training, each from the last."""

    size: str
    stages: tuple[Stage, ...]
    batch: int = 32


SCALES = {
    "english": Scale("demo", (Stage(4, 2.5e-3, 2.5e-3),)),
    "chinese": Scale("demo_chinese", (Stage(5, 2.5e-3, 4e-4), Stage(3, 1e-3, 4e-4))),
    "bilingual": Scale("demo_chinese", (Stage(3, 2.5e-3, 4e-4),)),
}


@dataclass(frozen=True)
class ToyDemo:
    """The finished index, captions of its videos to try, and the recalls of its model in words."""

    index: Path
    language: str
    examples: tuple[str, ...]
    figures: str

    @property
    def remark(self) -> str:
        """What the page says about the model."""
        return _REMARKS[self.language]


def prepare(
    folder: Path = FOLDER,
    language: str = "english",
    *,
    scale: Scale | None = None,
    say: Callable[[str], None] = print,
) -> ToyDemo:
    """The toy demo in `folder`; it is made if it does not exist yet.

    Raises `UserError` that names the program that failed, or says that another process prepares the folder.
    """
    scale = scale or SCALES[language]
    folder = folder.absolute()  # it lies in the index: its videos are found from any folder
    language_folder = folder / language
    recipe = {"recipe": RECIPE, "seed": SEED, "language": language, **asdict(scale)}
    recipe = json.loads(json.dumps(recipe))  # as it is read from the file: lists instead of tuples
    demo = read_finished(language_folder, recipe)
    if demo:
        return demo
    with file_errors(folder, "the toy demo cannot be made there"):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(folder / LOCK_FILE)
        except LockedError:
            raise UserError(f"{folder}: another process prepares this folder; wait for it") from None
        with lock:
            demo = read_finished(language_folder, recipe)
            return demo or _Preparation(folder, language_folder, recipe, scale, say).run()


def read_finished(folder: Path, recipe: dict[str, Any]) -> ToyDemo | None:
    """The demo that the same recipe made before; None if there is none or a part is missing."""
    try:
        content = json.loads((folder / READY_FILE).read_text(encoding="utf-8"))
        if content["recipe"] != recipe or not (folder / "index" / "index.json").is_file():
            return None
        examples, figures = tuple(content["examples"]), content["figures"]
        return ToyDemo(folder / "index", recipe["language"], examples, figures)
    except (OSError, ValueError, KeyError, TypeError):
        return None


class _Preparation:
    """The steps. Each product has a folder; the languages share the toy videos."""

    def __init__(
        self,
        folder: Path,
        language_folder: Path,
        recipe: dict[str, Any],
        scale: Scale,
        say: Callable[[str], None],
    ) -> None:
        self.data = folder / f"data-{scale.size}"
        self.dataset = self.data / vatex.SPEC.name
        self.folder = language_folder
        self.language: str = recipe["language"]
        self.recipe = recipe
        self.scale = scale
        self.say = say
        self.started = time.monotonic()

    def run(self) -> ToyDemo:
        """Do all steps that are not done yet."""
        self._remove_other_recipe()
        self._step("drawing toy videos", self.data, self._draw)
        self._step("frame store", self.dataset / "vatex_lmdb", self._store)
        self._step(f"training, {self.language}", self.folder / "model", self._train)
        self._step("index", self.folder / "index", self._index)
        examples, figures = self._examples(), self._figures()
        content = {"recipe": self.recipe, "examples": examples, "figures": figures}
        write_json(self.folder / READY_FILE, content)
        self._report("ready")
        return ToyDemo(self.folder / "index", self.language, tuple(examples), figures)

    def _remove_other_recipe(self) -> None:
        file = self.folder / "recipe.json"
        recipe = json.dumps(self.recipe)
        if not file.is_file() or file.read_text(encoding="utf-8") != recipe:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            write_text(file, recipe)

    def _step(self, name: str, product: Path, work: Callable[[], None]) -> None:
        done_file = product.with_name(f"{product.name}.done")
        if done_file.is_file() and product.exists():
            return
        done_file.unlink(missing_ok=True)
        shutil.rmtree(product, ignore_errors=True)
        self._report(name)
        work()
        write_text(done_file, "")

    def _draw(self) -> None:
        size = ("--seed", str(SEED), "--size", self.scale.size)
        self._program(
            "tools/make_toy_dataset.py", "--out", self.data, *size, "--only", vatex.SPEC.name, "toy-bert"
        )

    def _store(self) -> None:
        self._program(
            *(
                "tools/frame2lmdb.py",
                "--video_dir",
                self.dataset / "videos",
                "--lmdb_path",
                self.dataset / "vatex_lmdb",
            ),
            *("--json_path", self.dataset / "videos.jsonl", "--num_frames", "12", "--num_workers", "2"),
        )

    def _train(self) -> None:
        """Each stage starts from the checkpoint of the one before."""
        start: tuple[str | Path, ...] = ()
        for stage, folder in zip(self.scale.stages, self._model_folders(), strict=True):
            shutil.rmtree(folder, ignore_errors=True)
            self._train_stage(stage, folder, *start)
            start = ("--init_model", _checkpoint(folder, stage))

    def _train_stage(self, stage: Stage, folder: Path, *more: str | Path) -> None:
        self._program(
            *(
                "main_task_retrieval.py",
                "--do_train",
                "--dataset",
                vatex.SPEC.name,
                "--language",
                self.language,
            ),
            *("--output_dir", folder, "--data_dir", self.data, "--seed", str(SEED), "--clip_model", "toy"),
            *("--clip_weights", "none", "--pretrained_text", self.data / "toy-bert"),
            *("--use_temp", "--use_frame_fea", "--temporal_layers", "2", "--max_frames", "4"),
            *("--max_words", "24", "--top_frames", "3", "--frame_sample", "uniform_random"),
            *("--lr", str(stage.lr), "--text_lr", str(stage.text_lr), "--epochs", str(stage.epochs)),
            *("--batch_size", str(self.scale.batch), "--batch_size_val", "128", "--num_thread_reader", "2"),
            *("--n_display", "25", "--save_steps", "0", "--no-report", "--bootstrap", "0"),
            *more,
        )

    def _model_folders(self) -> list[Path]:
        """The output folder of each stage, the last one "model"."""
        earlier = [self.folder / f"model-{number}" for number in range(1, len(self.scale.stages))]
        return [*earlier, self.folder / "model"]

    def _index(self) -> None:
        """Index the test videos, which the model has not seen."""
        videos = self.folder / "videos"
        shutil.rmtree(videos, ignore_errors=True)
        videos.mkdir()
        for number, name in enumerate(self._test_names()):
            shutil.copyfile(self.dataset / "videos" / f"{name}.mp4", videos / _file_name(number))
        checkpoint = _checkpoint(self.folder / "model", self.scale.stages[-1])
        self._program(
            *("tools/search.py", "index", "--video_dir", videos, "--init_model", checkpoint),
            *("--out", self.folder / "index", "--num_workers", "2"),
        )

    def _test_names(self) -> list[str]:
        return (self.dataset / "test_list.txt").read_text(encoding="utf-8").split()

    def _examples(self) -> list[str]:
        """Captions of five indexed videos that the model finds first, spread over the index."""
        from search import Retriever, VideoIndex

        names = self._test_names()
        content = json.loads((self.dataset / "vatex_data.json").read_text(encoding="utf-8"))
        keys = _CAPTIONS[self.language]  # of two languages, every other example is of the second one
        step = max(1, len(names) // EXAMPLES)
        captions = [
            min(content[name][keys[number // step % len(keys)]], key=len) for number, name in enumerate(names)
        ]
        order = sorted(range(len(names)), key=lambda number: (number % step, number))
        found = []
        with VideoIndex(self.folder / "index") as index:
            retriever = Retriever.for_index(index, device="cpu")
            for number in order:
                hits = retriever.search(index, captions[number], top=1).hits
                if [hit.video_id for hit in hits] == [_file_name(number)] and captions[number] not in found:
                    found.append(captions[number])
                if len(found) == EXAMPLES:
                    break
        return found or captions[:EXAMPLES]

    def _figures(self) -> str:
        """The recalls on the indexed videos, as the last line of metrics.jsonl has them."""
        line = (self.folder / "model" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1]
        values = json.loads(line)
        return ", ".join(f"{name} {values[f't2v/{name}']:.0f}" for name in ("R@1", "R@5", "R@10"))

    def _report(self, step: str) -> None:
        self.say(f"toy demo, {time.monotonic() - self.started:3.0f} s: {step}")

    def _program(self, program: str, *arguments: str | Path) -> None:
        """Run a program of the project and show its progress. Raises `UserError` with its last line."""
        command = [*process_of(program), *map(str, arguments)]
        # Threads that spin while they wait slow down everything else on a small machine.
        environment = {"OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, **environment},
        )
        assert process.stdout is not None
        lines: list[str] = []  # the last five
        try:
            for line in process.stdout:
                lines = [*lines[-4:], line.strip()]
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
            last_line = next((line for line in reversed(lines) if line), "no output")
            raise UserError(f"{program} ended with {code}: {last_line}")


def _file_name(number: int) -> str:
    """The name of an indexed video by its place in the list of test videos."""
    return f"toy-{number + 1:03d}.mp4"


def _checkpoint(folder: Path, stage: Stage) -> Path:
    """The checkpoint of the last epoch of a stage."""
    return folder / f"pytorch_model.bin.{stage.epochs - 1}"
