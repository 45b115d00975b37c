"""An indexer that waits after every committed batch, for tests that kill it.

odd_indexer.py VIDEOS INDEX CHECKPOINT SECONDS

It prints its process id, then the number of videos after every batch.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from search import Retriever, index_videos
from search.index_writer import Entry, IndexWriter

_add = IndexWriter.add


def add(self: IndexWriter, entries: Sequence[Entry]) -> None:
    _add(self, entries)
    sys.stdout.write(f"{self.catalog.count()}\n")
    sys.stdout.flush()
    time.sleep(float(sys.argv[4]))


if __name__ == "__main__":
    sys.stdout.write(f"{os.getpid()}\n")
    IndexWriter.add = add  # type: ignore[method-assign]
    retriever = Retriever.from_checkpoint(sys.argv[3], device="cpu")
    index_videos(retriever, sys.argv[2], video_dir=sys.argv[1], batch=1, engine="exact", quiet=True)
