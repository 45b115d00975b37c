"""What --short_side and --quality of a frame store cost and change.

    python benchmarks/frame_store_quality.py VIDEO... [--clip_model ViT-B-32-quickgelu] [--clip_weights NAME]

For every setting: kB a video, and the difference of the image tower's input (224 pixels, as in training) and
of the frame features from those of full-size frames at JPEG quality 95. The change of features is given as a
share of the distance between the features of a frame and of the next stored frame, which a model must
distinguish. `--clip_weights` is as in the main programs; without it the tower has random weights, which are
more sensitive to single pixels than trained ones.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dataloaders.frame_store.reader import decode_jpeg
from dataloaders.transforms import resize_and_crop
from modules.backbones.clip_towers import build_clip, clip_image_size
from video.decoding import sample_with_pyav
from video.pictures import PictureEncoder
from video.sampling import Window

FRAMES = 8
SETTINGS = ((0, 95), (0, 75), (256, 95), (256, 85), (256, 75), (224, 95), (224, 75))
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)


def inputs(path: Path, *, short_side: int, quality: int, size: int) -> tuple[Tensor, int]:
    """The tower's input from a video, uint8 [F, 3, S, S], and the bytes of its JPEGs."""
    encode = PictureEncoder(short_side=short_side, quality=quality)
    sample = sample_with_pyav(path, wanted=FRAMES, encode=encode, window=Window())
    jpegs = [picture.jpeg for picture in sample.pictures]
    return resize_and_crop([decode_jpeg(jpeg) for jpeg in jpegs], size), sum(map(len, jpegs))


@torch.no_grad()
def features(clip: nn.Module, frames: Tensor) -> Tensor:
    """Normalised frame features [F, D]."""
    embeds: Tensor = clip.visual((frames / 255 - MEAN) / STD)  # type: ignore[operator]
    return nn.functional.normalize(embeds, dim=-1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--clip_model", default="ViT-B-32-quickgelu")
    parser.add_argument("--clip_weights", default="none")
    args = parser.parse_args()
    torch.manual_seed(0)
    clip = build_clip(args.clip_model).eval()
    if args.clip_weights != "none":
        from modules.backbones.clip_weights import load_clip_weights

        load_clip_weights(clip, args.clip_weights, name=args.clip_model)
    size = clip_image_size(clip)
    print(
        f"{len(args.videos)} videos, {FRAMES} frames each; {args.clip_model}, weights: {args.clip_weights}\n"
    )
    print("| short side | quality | kB for 30 frames | PSNR, dB | cosine | change of features |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    full_frames = {path: inputs(path, short_side=0, quality=95, size=size)[0] for path in args.videos}
    full_features = {path: features(clip, frames) for path, frames in full_frames.items()}
    for short_side, quality in SETTINGS:
        sizes, errors, cosines, changes = [], [], [], []
        for path in args.videos:
            frames, num_bytes = inputs(path, short_side=short_side, quality=quality, size=size)
            changed = features(clip, frames)
            sizes.append(num_bytes / FRAMES * 30 / 1e3)
            errors.append(float(((frames.float() - full_frames[path].float()) ** 2).mean()))
            cosines.append(float((changed * full_features[path]).sum(-1).mean()))
            step = (full_features[path][1:] - full_features[path][:-1]).norm(dim=-1).mean()
            changes.append(float((changed - full_features[path]).norm(dim=-1).mean() / step))
        psnr = 10 * np.log10(255**2 / np.mean(errors)) if any(errors) else float("inf")
        print(
            f"| {short_side or 'as it is'} | {quality} | {np.mean(sizes):,.0f} | {psnr:.1f} | "
            f"{np.mean(cosines):.5f} | {100 * np.median(changes):.1f} % |"
        )


if __name__ == "__main__":
    main()
