"""Small pictures of videos for a report, as data URIs. A broken video never stops the report."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

import cv2
import numpy as np

from dataloaders.frame_source import FramesError, FrameSource

FRAMES = 4  # of a video
SIDE = 160  # pixels of a thumbnail's longer side
QUALITY = 70
MAX_BYTES = 6_000_000  # of all data URIs together: the page must stay under 10 MB


@dataclass
class Thumbnails:
    """Pictures of the videos of `store`. Without a source of frames (None) no video has pictures."""

    store: FrameSource | None
    bytes_used: int = field(default=0, init=False)

    def of(self, video_id: str) -> list[str] | str:
        """Data URIs of a few evenly spaced frames ("" for a broken one), or a text: why there are none."""
        if self.store is None:
            return "no frames"
        if self.bytes_used > MAX_BYTES:
            return "left out: the page would become too large"
        try:
            count = self.store.num_frames(video_id)
        except FramesError:
            return f"video is broken in the {self.store.kind}"
        if not count:
            return f"video is not in the {self.store.kind}"
        chosen = np.unique(np.linspace(0, count - 1, min(FRAMES, count)).round().astype(int))
        shown = [self._frame(self.store, video_id, int(index)) for index in chosen]
        self.bytes_used += sum(map(len, shown))
        return shown if any(shown) else f"frames are broken in the {self.store.kind}"

    @staticmethod
    def _frame(store: FrameSource, video_id: str, index: int) -> str:
        try:
            return thumbnail(store.read_frames(video_id, [index])[0])
        except FramesError:
            return ""


def thumbnail(picture: np.ndarray) -> str:
    """An RGB picture, uint8 [H, W, 3], as a data URI; its longer side is at most `SIDE`."""
    height, width = picture.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(
        ".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    )
    assert done
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")
