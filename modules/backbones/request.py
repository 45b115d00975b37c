"""Which backbone is asked for, and from where."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """What `build_backbone` needs to know.

    `name`: --clip_model. `weights`: --clip_weights, an open_clip tag, a file, or "none" for random weights.
    `pretrained`: whether weights are wanted at all; a checkpoint that replaces all of them makes that
    needless, but `weights` still says which preprocessing they need. `cache_dir` is where downloads are kept;
    None: the caches of the libraries.
    """

    name: str
    weights: str = "none"
    pretrained: bool = True
    cache_dir: str | None = None
    allow_download: bool = True
