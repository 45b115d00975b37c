"""Does every model that open_clip knows work as a backbone? A table, written to results/backbones.md.

    python benchmarks/protocol/backbone_walk.py [--names NAME ...] [--real_below 80] [--out FILE]

All models have random weights. Every name is built on the meta device, where tensors have shapes but no
numbers: names and shapes of its weights are compared with open_clip's own model, and a training step runs
(forward and backward through both towers, with checkpointing). Models of fewer than
`--real_below` million parameters run for real: weights in open_clip's form are loaded from a file, the model
trains a step, is saved and loaded again, gives equal features, is frozen in part, and checkpointed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from common.atomic_files import write_text
from engine.checkpoint.weights import load_state
from modules.backbones.backbone import Backbone
from modules.backbones.clip_configs import clip_config
from modules.backbones.hf_text import KNOWN
from modules.backbones.registry import build_backbone
from modules.backbones.request import Request
from modules.freezing import freeze
from modules.grad_checkpointing import checkpoint_activations
from modules.retrieval_model import RetrievalModel
from modules.video_encoder import VideoEncoder

RESULTS = Path(__file__).resolve().parents[1] / "results" / "backbones.md"
# Models that cannot be used, with the reason.
EXCEPTIONS: dict[str, str] = {}
CLIPS, FRAMES = 2, 1
SMALLEST_SHARE = 0.5  # of an image tower's weights that its layers hold, at least


@dataclass
class Row:
    """What was seen of one model. `problems` is empty where all checks pass."""

    name: str
    millions: float = 0.0
    image_layers: int = 0
    text_layers: int = 0
    languages: str = ""
    real: bool = False
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


def reference(name: str) -> nn.Module:
    """open_clip's own model of that name, without its weights and without the network."""
    import open_clip
    from open_clip.coca_model import CoCa
    from open_clip.model import CLIP, CustomTextCLIP
    from transformers import AutoConfig

    def known_config(source: str, **_: Any) -> Any:
        values = dict(KNOWN[source])
        return AutoConfig.for_model(values.pop("model_type"), **values)

    config: dict[str, Any] = open_clip.get_model_config(name)
    config["vision_cfg"]["timm_model_pretrained"] = False
    config["text_cfg"]["hf_model_pretrained"] = False
    custom = config.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]
    kind: Any = CoCa if "multimodal_cfg" in config else CustomTextCLIP if custom else CLIP
    with mock.patch("open_clip.hf_model.AutoConfig.from_pretrained", known_config):
        model: nn.Module = kind(**config)
    return model


def weights_of(backbone: Backbone) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the towers' weights, in open_clip's form with the text tower at the top."""
    towers = {f"visual.{name}": tensor for name, tensor in backbone.image.state_dict().items()}
    return {name: tuple(t.shape) for name, t in {**towers, **backbone.text.state_dict()}.items()}


def expected_weights(name: str) -> dict[str, tuple[int, ...]]:
    """`weights_of` open_clip's model; CoCa's decoder is left out."""
    state = reference(name).state_dict()
    left_out = ("text_decoder.", "logit_scale", "logit_bias")
    return {
        name.removeprefix("text."): tuple(t.shape)
        for name, t in state.items()
        if not name.startswith(left_out)
    }


def examine_on_meta(name: str) -> Row:
    """Build the model on the meta device, compare its weights, train a step."""
    row = Row(name)
    with torch.device("meta"):
        with (
            mock.patch("modules.backbones.open_clip_models.logit_scale_of", lambda clip: 100.0),
            mock.patch("modules.backbones.open_clip_models.logit_bias_of", lambda clip: None),
        ):
            backbone = build_backbone(Request(name))
        expected, ours = expected_weights(name), weights_of(backbone)
        if expected != ours:
            odd = [key for key in expected.keys() | ours.keys() if expected.get(key) != ours.get(key)]
            row.problems.append(f"{len(odd)} weights differ from open_clip's, first {sorted(odd)[:3]}")
        describe(row, backbone)
        model = retrieval_model(backbone)
        checkpoint_activations(model)
        size, words = backbone.preprocessing.size, min(8, backbone.context_length)
        image = backbone.image(torch.empty(CLIPS, 3, size, size))  # autocast does not know this device
        ids = torch.empty(CLIPS, words, dtype=torch.long)
        text, hidden = backbone.text(ids, torch.ones_like(ids))
        if text.shape != image.shape or hidden.shape != (CLIPS, words, backbone.embed_dim):
            row.problems.append(f"features of the shapes {image.shape}, {text.shape}, {hidden.shape}")
        (image.sum() + text.sum()).backward()
        for tower in (backbone.image, backbone.text):
            row.problems += missing_gradients(tower, "step on meta")
    return row


def describe(row: Row, backbone: Backbone) -> None:
    parameters = [*backbone.image.parameters(), *backbone.text.parameters()]
    row.millions = sum(p.numel() for p in parameters) / 1e6
    row.image_layers, row.text_layers = len(backbone.image_layers), len(backbone.text_layers)
    row.languages = ", ".join(sorted(backbone.languages))
    inside = sum(p.numel() for layer in backbone.image_layers for p in layer.parameters())
    share = inside / sum(p.numel() for p in backbone.image.parameters())
    if share < SMALLEST_SHARE or not row.text_layers:
        row.problems.append(f"its layers hold {share:.0%} of the image tower")


def missing_gradients(model: nn.Module, step: str) -> list[str]:
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    return [f"{step}: {len(missing)} weights without gradient, first {missing[:3]}"] if missing else []


def retrieval_model(backbone: Backbone) -> RetrievalModel:
    visual = VideoEncoder(
        backbone.image,
        embed_dim=backbone.embed_dim,
        use_temp=True,
        temporal_layers=1,
        preprocessing=backbone.preprocessing,
    )
    model = RetrievalModel(visual, backbone.text, use_frame_fea=True)
    return model.train()


def random_batch(backbone: Backbone) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    size, words = backbone.preprocessing.size, backbone.context_length
    pixels = torch.randint(0, 256, (CLIPS, FRAMES, 3, size, size), generator=draw, dtype=torch.uint8)
    ids = torch.randint(4, 1000, (CLIPS, words), generator=draw)
    ids[:, -1] = min(backbone.vocab_size - 1, 49407)
    return {
        "frames": pixels,
        "frame_mask": torch.ones(CLIPS, FRAMES, dtype=torch.bool),
        "text_ids": ids,
        "text_mask": torch.ones_like(ids),
        "video": torch.arange(CLIPS),
    }


def examine_for_real(name: str, row: Row) -> None:
    """Load weights, train a step, save, load, compare features; freeze; checkpoint."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        theirs = reference(name)
        torch.save(theirs.state_dict(), Path(folder) / "weights.pt")
        backbone = build_backbone(Request(name, str(Path(folder) / "weights.pt")))
        expected = theirs.state_dict()["visual." + next(iter(backbone.image.state_dict()))]
        if not torch.equal(next(iter(backbone.image.state_dict().values())), expected):
            row.problems.append("its weights are not those of the file")
        del theirs
    model, batch = retrieval_model(backbone), random_batch(backbone)
    torch.manual_seed(1)
    model(batch)["loss"].backward()
    row.problems += missing_gradients(model, "real step")
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    checkpoint_activations(model)
    torch.manual_seed(1)
    model(batch)["loss"].backward()
    for parameter_name, parameter in model.named_parameters():
        if parameter.grad is not None and not torch.allclose(
            parameter.grad, gradients[parameter_name], rtol=1e-3, atol=1e-5
        ):
            row.problems.append(f"checkpointing changes the gradient of {parameter_name}")
            break
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            parameter -= 1e-4 * gradients[parameter_name]
    model.zero_grad()
    again = retrieval_model(build_backbone(Request(name)))
    load_state(again, model.state_dict(), path=name)
    with torch.inference_mode():
        pairs = zip(encoded(model, batch), encoded(again, batch), strict=True)
        if not all(torch.equal(first, second) for first, second in pairs):
            row.problems.append("a saved model gives other features")
    for part in ("image", "text"):
        freeze(again, part, 1)
    if not any(not p.requires_grad for p in again.parameters()):
        row.problems.append("--freeze image:1,text:1 freezes nothing")
    row.real = True


def encoded(model: RetrievalModel, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    model.eval()
    video, _ = model.encode_video(batch["frames"], batch["frame_mask"])
    return video, model.encode_text(batch["text_ids"], batch["text_mask"])


def table(rows: list[Row]) -> list[str]:
    """The page of results."""
    import open_clip
    import timm
    import transformers

    good = [row for row in rows if not row.problems]
    real = [row for row in rows if row.real]
    lines = [
        "# Backbones",
        "",
        "Every model that open_clip knows, with random weights, by "
        "`python benchmarks/protocol/backbone_walk.py` (its first lines say what it checks).",
        f"torch {torch.__version__}, open_clip {open_clip.__version__}, timm {timm.__version__}, "
        f"transformers {transformers.__version__}.",
        "",
        f"- Built with open_clip's names and shapes, and trained a step: {len(good)} of {len(rows)}.",
        f"- Run for real (loaded from a file, trained, checkpointed, saved, loaded, frozen): {len(real)}; "
        "the others on the meta device only.",
        f"- Exceptions: {len(EXCEPTIONS) or 'none'}.",
        "",
        *(f"  - `{name}`: {reason}" for name, reason in EXCEPTIONS.items()),
        "| model | million weights | image layers | text layers | languages | run | problems |",
        "| --- | ---: | ---: | ---: | --- | --- | --- |",
    ]
    for row in rows:
        run = "real" if row.real else "meta"
        problems = "; ".join(row.problems)
        lines.append(
            f"| `{row.name}` | {row.millions:.0f} | {row.image_layers} | {row.text_layers} | {row.languages} "
            f"| {run} | {problems} |"
        )
    return lines


def main() -> None:
    import open_clip

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--names", nargs="+", default=open_clip.list_models())
    parser.add_argument("--real_below", type=float, default=80.0, help="million weights")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    rows = []
    for name in args.names:
        if name in EXCEPTIONS:
            continue
        clip_config(name)
        start = time.perf_counter()
        try:
            row = examine_on_meta(name)
            if row.millions < args.real_below:
                examine_for_real(name, row)
        except Exception as error:  # whatever a model raises is a row of the table
            row = Row(name, problems=[f"{type(error).__name__}: {str(error).splitlines()[0]}"])
        row.seconds = time.perf_counter() - start
        print(f"{row.name}: {row.seconds:.1f} s, {'; '.join(row.problems) or 'ok'}", flush=True)
        rows.append(row)
    write_text(args.out, "\n".join(table(rows)) + "\n")
    if any(row.problems for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
