"""Towers as ONNX files: exported, compared with torch in onnxruntime, quantised to int8.

B inputs, F frames, W words, D joint width, S pixels a side.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from common.atomic_files import atomic_path, write_json
from common.errors import UserError
from common.languages import languages_of
from dataloaders.transforms import as_resize
from hmmc.model import VideoTextModel
from tools.export.towers import TextTower, VideoTower, plain_blocks

DESCRIPTION = "model.json"
TOLERANCE = 1e-4  # between onnxruntime and torch, of vectors of length 1
_MOST_INPUTS = 4096  # of one call
# Of different lengths; in both languages.
_TEXTS = (
    "a man is singing",
    "rain",
    "两只狗在雪地里跑",
    "a red square and then a blue ring that moves to the left",
)


@dataclass(frozen=True)
class Exported:
    """A file that was written. `difference`: the largest from torch; `cosine`: the smallest, for int8."""

    path: Path
    bytes: int
    difference: float | None = None
    cosine: float | None = None

    def __str__(self) -> str:
        size = f"{self.path.name:<18} {self.bytes / 1e6:8.1f} MB"
        if self.cosine is not None:
            return f"{size}, smallest cosine with float32 {self.cosine:.4f}"
        return f"{size}, largest difference from torch {self.difference:.1e}"


def export_model(model: VideoTextModel, folder: Path, *, int8: bool = False) -> list[Exported]:
    """Write video.onnx, a text.onnx for each language, and model.json, which describes their inputs.

    `int8`: also *.int8.onnx, whose weights take a quarter. Raises `UserError` if a file gives other features
    than torch; that file is not written.
    """
    network = model.model
    generator = torch.Generator().manual_seed(0)
    shape = (len(_TEXTS), model.frames, 3, *2 * (as_resize(model.image_size).size,))
    clips = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    written: list[Exported] = []
    described: dict[str, Any] = {"format": 1, **_description(model)}
    with plain_blocks(network):
        tower: nn.Module = VideoTower(network)
        written += _write(tower, {"frames": clips}, ("video", "frame_embeds"), folder / "video.onnx", int8)
        described["video"] = {"file": "video.onnx", "frames": ["batch", *shape[1:]]}
        languages = languages_of(model.config.language)
        for language in languages:
            ids, mask = model.tokenize(_TEXTS, language=language)
            text = TextTower(network, language)
            text.leave_out_useless_mask(ids, mask)
            inputs = {"ids": ids, "mask": mask} if text.takes_mask else {"ids": ids}
            name = "text.onnx" if len(languages) == 1 else f"text_{language}.onnx"
            written += _write(text, inputs, ("text",), folder / name, int8)
            shapes = {name: ["batch", ids.shape[1]] for name in inputs}
            described.setdefault("texts", []).append({"file": name, "language": language, **shapes})
    write_json(folder / DESCRIPTION, described)
    return written


def _description(model: VideoTextModel) -> dict[str, Any]:
    """What a program needs to know besides shapes."""
    resize, config = as_resize(model.image_size), model.config
    return {
        "model": model.identity["clip_model"],
        "width": model.width,
        "pixels": {"order": "RGB", "type": "uint8", "size": resize.size, "resize": resize.mode},
        "interpolation": resize.interpolation,
        "head": config.head,
        "top_frames": config.top_frames if model.head.reads("frames") else 0,
    }


def _write(
    tower: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], path: Path, int8: bool
) -> list[Exported]:
    tower.eval()
    with torch.no_grad():
        result = tower(*inputs.values())
    expected = [part.numpy() for part in (result if isinstance(result, tuple) else (result,))]
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    with atomic_path(path) as temporary:
        _export(tower, inputs, outputs, temporary)
        found = _run(temporary, arrays)
        difference = max(float(np.abs(a - b).max()) for a, b in zip(found, expected, strict=True))
        if not difference <= TOLERANCE:
            raise UserError(f"{path}: differs from torch by {difference:.1e}, more than {TOLERANCE:g}")
    written = [Exported(path, path.stat().st_size, difference=difference)]
    if int8:
        small = path.with_suffix(".int8.onnx")
        with atomic_path(small) as temporary:
            _quantize(path, temporary)
            rows = zip(_run(temporary, arrays), expected, strict=True)
            cosine = min(float((a * b).sum(axis=-1).min()) for a, b in rows)
        written.append(Exported(small, small.stat().st_size, cosine=cosine))
    return written


def _export(tower: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], path: Path) -> None:
    batch = torch.export.Dim("batch", min=1, max=_MOST_INPUTS)
    with _errors_only("onnxscript"), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # on operations that need no translation
        program = torch.onnx.export(
            tower,
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        program.save(path)


def _quantize(source: Path, target: Path) -> None:
    """Weights of products and embeddings as int8, a scale for each output; activations at run time."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _errors_only(None):  # it advises a step that joins operations, which hides products
        quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True)


@contextlib.contextmanager
def _errors_only(name: str | None) -> Iterator[None]:
    """Nothing below an error from this logger (None: the root)."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _run(path: Path, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of a file: of the first input alone and of the others together, so with two sizes."""
    session = session_of(path)
    parts = [
        session.run(None, {name: array[rows] for name, array in inputs.items()})
        for rows in (slice(0, 1), slice(1, None))
    ]
    return [np.concatenate(both) for both in zip(*parts, strict=True)]


def session_of(path: Path, *, threads: int = 0) -> onnxruntime.InferenceSession:
    """An onnxruntime session on the CPU. `threads`: 0 for as many as it likes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
