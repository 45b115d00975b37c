"""Search any folder of videos with a trained model: by words, by a picture, by a clip.

    from search import Retriever, VideoIndex

    retriever = Retriever.from_checkpoint("ckpts/msrvtt/pytorch_model.bin.4")  # with its config.json
    texts = retriever.encode_text(["a man is singing"])        # float32 [1, D], length 1
    clip = retriever.encode_video("my_videos/concert.mp4")     # .video [D], .frames [F, D], .times [F]
    retriever.index_folder("my_videos", "my_index")            # again later: only what is new or changed
    with VideoIndex("my_index") as index:                      # or Retriever.for_index(index): its own model
        found = retriever.search(index, "a dog runs", exclude="snow", top=5)
        for hit in found.hits:                                 # best first
            print(hit.video_id, hit.score, hit.moment, hit.path, hit.missing)

`search` takes a text, `image=FILE`, `video=FILE` or several of them together; `similar(index, video_id)`
finds videos like one of the index. `found.remarks` are warnings to show (a language that the model was not
trained for, a text cut off); `found.to_json()` is what the command line and the API answer with.
`index.thumbnail(video_id, frame=hit.frame)` is a JPEG, `index.record(video_id)` all that is known of a video.
Wrong input raises `ValueError` of one line: `QueryError` for a query, `VideoIndexError` for an index.
docs/SEARCH.md describes the index folder and the two engines.
"""

from search.index_folder import VideoIndex
from search.index_format import VideoIndexError, VideoRecord
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
]
