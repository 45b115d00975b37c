"""Text-video retrieval: train models, evaluate them, search videos.

    from hmmc import load_model

    model = load_model("ckpts/msrvtt")        # an output folder, a checkpoint, OWNER/NAME of the hub, ...
    model.similarity(["a man is singing"], ["concert.mp4"])

docs/PACKAGE.md and docs/SEARCH.md say more. The command line is `hmmc`, or `python -m hmmc`. Names are
imported when they are first used, so that `import hmmc` is quick. All other modules may change.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from common.commands import NAMESPACE

if TYPE_CHECKING:
    from common.errors import UserError
    from hmmc.model import VideoTextModel, load_model
    from search import Retriever, VideoIndex, index_videos

__version__ = "0.1.0"
__all__ = ["Retriever", "UserError", "VideoIndex", "VideoTextModel", "index_videos", "load_model"]

_MODULES = {
    "Retriever": f"{NAMESPACE}search",
    "UserError": f"{NAMESPACE}common.errors",
    "VideoIndex": f"{NAMESPACE}search",
    "VideoTextModel": "hmmc.model",
    "index_videos": f"{NAMESPACE}search",
    "load_model": "hmmc.model",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'hmmc' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
