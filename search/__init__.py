"""Search any folder of videos, with a published or a trained model: by words, by a picture, by a clip.

    from search import Retriever, VideoIndex, index_videos

    retriever = Retriever.from_pretrained()  # a published model; .from_checkpoint(PATH) loads a trained one
    texts = retriever.encode_text(["a man is singing"])        # float32 [1, D], length 1
    clip = retriever.encode_video("my_videos/concert.mp4")     # .video [D], .frames [F, D], .times [F]
    index_videos(retriever, "my_index", video_dir="my_videos") # again later: only what is new or changed
    with VideoIndex("my_index") as index:                      # or Retriever.for_index(index): its own model
        results = retriever.search(index, "a dog runs", exclude="snow", top=5)
        for hit in results.hits:                               # best first
            print(hit.video_id, hit.score, hit.moment, hit.path, hit.missing)

Videos of more than two minutes are cut into moments: `hit.start`, `hit.end` and `hit.moments` tell which.

`search` takes a text, `image=FILE`, `video=FILE` or several of them together; `similar(index, video_id)`
finds videos like one of the index. `results.remarks` are warnings to show (the model was not trained on this
language, the text was cut off); `results.to_json()` is what the command line and the API return.
`index.thumbnail(video_id, frame=hit.frame)` is a JPEG, `index.record(video_id)` is the video's record. Wrong
input raises `UserError` (a `ValueError`) of one line: `QueryError` for a query, `VideoIndexError` for an
index. docs/SEARCH.md describes the index folder and the engines.

The names are imported when they are first used, so that `search.index_format` alone does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.index_folder import VideoIndex
    from search.index_format import VideoIndexError, VideoRecord
    from search.indexing import index_videos
    from search.query import QueryError
    from search.results import Hit, SearchResults
    from search.retriever import Retriever

__all__ = [
    "Hit",
    "QueryError",
    "Retriever",
    "SearchResults",
    "VideoIndex",
    "VideoIndexError",
    "VideoRecord",
    "index_videos",
]

_MODULES = {
    "Hit": "results",
    "QueryError": "query",
    "Retriever": "retriever",
    "SearchResults": "results",
    "VideoIndex": "index_folder",
    "VideoIndexError": "index_format",
    "VideoRecord": "index_format",
    "index_videos": "indexing",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
