"""Text-video retrieval: train models, evaluate them, search videos.

    from hmmc import Retriever, VideoIndex, index_videos     # docs/SEARCH.md

The command line is `hmmc`, or `python -m hmmc`. Names are imported when they are first used, so that `import
hmmc` is quick. All other modules may change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.errors import UserError
    from search import Retriever, VideoIndex, index_videos

__version__ = "0.1.0"
__all__ = ["Retriever", "UserError", "VideoIndex", "index_videos"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'hmmc' has no attribute {name!r}")
    if name == "UserError":
        from common.errors import UserError

        return UserError
    import search as library

    return getattr(library, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
