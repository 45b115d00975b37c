"""Convert a checkpoint: between .bin and .safetensors, and from CLIP4Clip's names to ours.

    python tools/convert_checkpoint.py SRC DST [--encoders_only] [--half] [--overwrite]

DST is a safetensors file if its name ends in .safetensors, else a torch file. Reads every format that
--init_model reads, and runs no code from SRC.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs as a script from any folder
if __name__ == "__main__":
    import common.early_interrupt  # noqa: F401  (Ctrl-C during the imports that follow)

from common.arguments import ArgumentParser
from common.errors import FileError, UserError, run_program
from dataloaders.datasets.files import name_some

if TYPE_CHECKING:  # torch is imported where it is used, so that --help answers at once
    from torch import Tensor

    from engine.checkpoint.files import State

# CLIP4Clip's names -> ours, first match decides; None drops the tensor. https://github.com/ArrowLuo/CLIP4Clip
# Its `seqTransf` head is our temporal transformer: the same blocks, T(f + P) + f, and the mean over frames of
# unit vectors. It also normalises the mean, which does not change cosines.
_TEMPORAL = "transformerClip."
_PREFIXES = (
    ("clip.visual.conv2.", None),
    ("clip.visual.", "visual_encoder.visual."),
    ("clip.logit_scale", None),
    ("clip.", "text_encoder."),
    (_TEMPORAL, "visual_encoder.temporal_transformer."),
)
FRAME_POSITIONS = 48  # rows of our table; theirs has as many as CLIP has word positions
_POSITIONS = "frame_position_embeddings.weight"
# What is left out, by the beginning of its name, and why.
_LEFT_OUT = {
    "clip.logit_scale": "scores are multiplied by 100 here, whatever the file says",
    "clip.visual.conv2": "patches over time (--linear_patch 3d) do not exist here; frame features differ",
    "cross": "the cross encoder (tightTransf) does not exist here",
    "similarity_dense": "the score of the cross encoder (tightTransf)",
    "lstm_visual": "the recurrent head (seqLSTM) does not exist here: use the model without --use_temp",
    "frame_position_embeddings": "only seqTransf uses it",
}


def build_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="convert_checkpoint.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("src", type=Path, metavar="SRC", help="checkpoint to read; it is not changed")
    add("dst", type=Path, metavar="DST", help="checkpoint to write")
    add(
        "--encoders_only", action="store_true", help="keep what fine-tuning and retrieval need, drop the rest"
    )
    add("--half", action="store_true", help="write matrices in float16: half the size, rounded to 3 digits")
    add("--overwrite", action="store_true", help="replace DST if it exists")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit code."""
    args = build_parser().parse_args(argv)
    return run_program("convert_checkpoint.py", lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    lines = convert(
        args.src,
        args.dst,
        encoders_only=args.encoders_only,
        half=args.half,
        overwrite=args.overwrite,
    )
    print("\n".join(lines))
    return 0


def convert(
    src: Path, dst: Path, *, encoders_only: bool = False, half: bool = False, overwrite: bool = False
) -> list[str]:
    """Write `src` as `dst` and return a report. Raises `UserError` if one cannot be read or written."""
    _check_paths(src, dst, overwrite=overwrite)
    from engine.checkpoint.files import read_state, save_state
    from engine.checkpoint.weights import ENCODER_GROUPS, count_by_group, group_of

    state = read_state(src)
    names = list(state)
    if is_clip4clip(state):
        lines = [f"{_size(src, state)} under CLIP4Clip's names"]
        state, remarks = from_clip4clip(state)
        lines += remarks
    else:
        lines = [f"{_size(src, state)}: {count_by_group(state)}"]
    if encoders_only:
        dropped = [name for name in state if group_of(name) not in ENCODER_GROUPS]
        lines += [f"dropped: {count_by_group(dropped)}"] if dropped else []
        state = {name: tensor for name, tensor in state.items() if group_of(name) in ENCODER_GROUPS}
    if all(group_of(name) == "unknown" for name in state):
        raise UserError(
            f"checkpoint {src}: nothing to write; none of its names is known ({name_some(names, 3)})"
        )
    if half:
        state = {name: _halved(name, tensor) for name, tensor in state.items()}
    save_state(state, dst)
    unknown = [name for name in state if group_of(name) == "unknown"]
    lines += [f"unknown, written as they are: {name_some(unknown, 3)}"] if unknown else []
    return [*lines, f"{_size(dst, state)}: {count_by_group(state)}"]


def _check_paths(src: Path, dst: Path, *, overwrite: bool) -> None:
    if not src.exists():
        raise FileError(f"{src}: no such file")
    if not dst.parent.is_dir():
        raise FileError(f"{dst}: the folder {dst.parent} does not exist")
    if dst.is_dir():
        raise FileError(f"{dst}: a folder; give the name of a file")
    if dst.exists() and dst.samefile(src):
        raise UserError(f"{dst}: SRC and DST are the same file")
    if dst.exists() and not overwrite:
        raise UserError(f"{dst}: exists; replace it with --overwrite")


def _halved(name: str, tensor: Tensor) -> Tensor:
    """Matrices in float16. Vectors are small, and norms and statistics need more digits."""
    import torch

    if not tensor.is_floating_point() or tensor.dim() < 2 or not tensor.numel():
        return tensor
    low, high = torch.aminmax(tensor)
    limit = torch.finfo(torch.float16).max
    if not (-limit <= float(low) and float(high) <= limit):
        raise UserError(f"--half: {name} holds values that float16 cannot: {float(low):g} to {float(high):g}")
    return tensor.half()


def _size(path: Path, state: State) -> str:
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    return f"{path}: {len(state)} tensors, {size / 1e6:,.1f} MB"


def is_clip4clip(state: Mapping[str, Tensor]) -> bool:
    """Whether the tensors have CLIP4Clip's names."""
    return "clip.visual.conv1.weight" in state and "clip.token_embedding.weight" in state


def from_clip4clip(state: Mapping[str, Tensor]) -> tuple[State, list[str]]:
    """(the tensors that we have too, under our names; remarks on all others).

    Raises `UserError` if the state has fewer frame positions than our table.
    """
    result: State = {}
    left_out: Counter[str] = Counter()
    remarks = []
    has_temporal = any(name.startswith(_TEMPORAL) for name in state)
    for name, tensor in state.items():
        if name == _POSITIONS and has_temporal:
            result[f"visual_encoder.{name}"] = _frame_positions(tensor)
            remarks.append(f"{name}: the first {FRAME_POSITIONS} of {len(tensor)} positions taken")
            continue
        our_name = _our_name(name)
        if our_name is None:
            left_out[next((part for part in _LEFT_OUT if f"{name}.".startswith(f"{part}.")), name)] += 1
        else:
            result[our_name] = tensor
    if "text_encoder.text_projection" not in result:
        remarks.append(
            "clip.text_projection: not in the file, and a model needs it; --init_model will refuse"
        )
    for part, count in left_out.items():
        remarks.append(f"{part}: {count} left out ({_LEFT_OUT.get(part, 'unknown')})")
    return result, remarks


def _our_name(name: str) -> str | None:
    for theirs, ours in _PREFIXES:
        if name.startswith(theirs):
            return None if ours is None else ours + name.removeprefix(theirs)
    return None


def _frame_positions(table: Tensor) -> Tensor:
    if table.dim() != 2 or len(table) < FRAME_POSITIONS:
        raise UserError(
            f"{_POSITIONS}: has the shape {tuple(table.shape)}; {FRAME_POSITIONS} positions are needed"
        )
    return table[:FRAME_POSITIONS].clone()  # frame i has row i in both


if __name__ == "__main__":
    sys.exit(main())
