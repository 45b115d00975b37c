"""Convert a checkpoint: between .bin and .safetensors, and from CLIP4Clip's names to ours.

    python tools/convert_checkpoint.py SRC DST [--encoders_only] [--half] [--overwrite]

DST is safetensors where its name ends so, else a torch file. Reads every form that --init_model reads, and
runs no code from SRC. Exit code: 0 done, 2 bad input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs as a script from any folder

from engine.checkpoint.weights import ENCODER_GROUPS, State, count_by_group, group_of, read_state, save_state
from tools.clip4clip_names import from_clip4clip, is_clip4clip


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="convert_checkpoint.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("src", type=Path, metavar="SRC", help="checkpoint to read; never written to")
    add("dst", type=Path, metavar="DST", help="checkpoint to write")
    add(
        "--encoders_only", action="store_true", help="keep what fine-tuning and retrieval need, drop the rest"
    )
    add("--half", action="store_true", help="write matrices in float16: half the size, rounded to 3 digits")
    add("--overwrite", action="store_true", help="replace DST if it is there")
    return parser


def convert(
    src: Path, dst: Path, *, encoders_only: bool = False, half: bool = False, overwrite: bool = False
) -> list[str]:
    """Write `src` as `dst`; returns what to tell. Raises `ValueError` for what cannot be read or written."""
    _check_target(src, dst, overwrite=overwrite)
    state = read_state(src)
    if is_clip4clip(state):
        lines = [f"{_size(src, state)} under CLIP4Clip's names"]
        state, remarks = from_clip4clip(state)
        lines += remarks
    else:
        lines = [_summary(src, state)]
    if encoders_only:
        dropped = [name for name in state if group_of(name) not in ENCODER_GROUPS]
        lines += [f"dropped: {count_by_group(dropped)}"] if dropped else []
        state = {name: tensor for name, tensor in state.items() if group_of(name) in ENCODER_GROUPS}
    if half:
        state = {name: _halved(name, tensor) for name, tensor in state.items()}
    if not state:
        raise ValueError(f"checkpoint {src}: nothing to write; it holds no encoder under a known name")
    save_state(state, dst)
    return [*lines, _summary(dst, state)]


def _check_target(src: Path, dst: Path, *, overwrite: bool) -> None:
    if not dst.parent.is_dir():
        raise ValueError(f"{dst}: the folder {dst.parent} does not exist")
    if dst.is_dir():
        raise ValueError(f"{dst}: a folder; give the name of a file")
    if dst.exists() and src.exists() and dst.samefile(src):
        raise ValueError(f"{dst}: SRC and DST are the same file")
    if dst.exists() and not overwrite:
        raise ValueError(f"{dst}: exists; replace it with --overwrite")


def _halved(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Matrices in float16. Vectors are small, and norms and statistics do not bear the rounding."""
    if not tensor.is_floating_point() or tensor.dim() < 2 or not tensor.numel():
        return tensor
    low, high = torch.aminmax(tensor)
    limit = torch.finfo(torch.float16).max
    if not (-limit <= float(low) and float(high) <= limit):
        raise ValueError(
            f"--half: {name} holds values that float16 cannot: {float(low):g} to {float(high):g}"
        )
    return tensor.half()


def _summary(path: Path, state: State) -> str:
    return f"{_size(path, state)}: {count_by_group(state)}"


def _size(path: Path, state: State) -> str:
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    return f"{path}: {len(state)} tensors, {size / 1e6:,.1f} MB"


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        lines = convert(
            args.src,
            args.dst,
            encoders_only=args.encoders_only,
            half=args.half,
            overwrite=args.overwrite,
        )
    except (ValueError, OSError) as error:
        print(f"convert_checkpoint.py: error: {error}", file=sys.stderr)
        return 2
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
