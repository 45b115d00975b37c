"""The frames of one sample of a shard: its JPEGs, or those that its video is decoded to."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from dataloaders.frame_source import FramesError
from dataloaders.frame_store.jpeg import Excess, decode_jpeg
from dataloaders.samples import Video
from dataloaders.tar_shards.raw_samples import RawSample
from video.decoder_process import DecoderProcess
from video.sample import Job, Settings
from video.sampling import VideoError, Window
from video.worker_pool import Fault

TIMEOUT_S = 60.0  # for one video


class SampleVideos:
    """Makes the `Video` of a sample. A video file gives the frames that a store of `settings` would hold.

    It is decoded in a process of its own, which may crash or hang without harm to the run. `first_seconds`:
    no more of a video is used.
    """

    def __init__(
        self, settings: Settings, *, timeout: float = TIMEOUT_S, first_seconds: float | None = None
    ) -> None:
        self._settings = settings
        self._timeout = timeout
        self._first_seconds = first_seconds
        self._decoder = DecoderProcess(timeout=timeout)

    def __getstate__(self) -> tuple[Settings, float, float | None]:
        return self._settings, self._timeout, self._first_seconds

    def __setstate__(self, state: tuple[Settings, float, float | None]) -> None:
        self.__init__(state[0], timeout=state[1], first_seconds=state[2])  # type: ignore[misc]

    def of(self, sample: RawSample) -> Video:
        if sample.video is None:
            return JpegVideo(sample.key, sample.frames)
        window = Window() if self._first_seconds is None else Window().cut_to(self._first_seconds)
        return _DecodedVideo(sample.key, sample.video, window, self._settings, self._decoder)

    def close(self) -> None:
        """End the process that decodes."""
        self._decoder.close()


class JpegVideo:
    """The frames of a sample that holds them as JPEGs."""

    def __init__(self, name: str, jpegs: Sequence[bytes]) -> None:
        self.name = name
        self._jpegs = jpegs

    def num_frames(self) -> int:
        return len(self._jpegs)

    def read_jpegs(self, indices: Sequence[int]) -> list[bytes]:
        return [self._jpegs[int(index)] for index in indices]

    def iter_frames(
        self, indices: Sequence[int], excess: Sequence[Excess] | None = None
    ) -> Iterable[NDArray[np.uint8]]:
        for place, jpeg in enumerate(self.read_jpegs(indices)):
            try:
                yield decode_jpeg(jpeg, None if excess is None else excess[place])
            except UserError as error:
                raise FramesError(f"frame {indices[place]}: {error}") from None


class _DecodedVideo(JpegVideo):
    """The frames of a video file in memory; only those that are read are made."""

    def __init__(
        self, name: str, data: bytes, window: Window, settings: Settings, decoder: DecoderProcess
    ) -> None:
        super().__init__(name, ())
        self._data = data
        self._window = window
        self._settings = settings
        self._decoder = decoder

    def num_frames(self) -> int:
        return self._settings.num_frames

    def read_jpegs(self, indices: Sequence[int]) -> list[bytes]:
        chosen = tuple(map(int, indices))
        with _as_file(self._data) as path:
            outcome = self._decoder.run(Job(self.name, path, self._window, self._settings, only=chosen))
        if isinstance(outcome, Fault):
            raise FramesError(f"{outcome.reason}: {outcome.message}")
        if isinstance(outcome[0], VideoError):
            raise FramesError(f"{outcome[0].reason}: {outcome[0].message}")
        return list(outcome[1])


@contextmanager
def _as_file(data: bytes) -> Iterator[Path]:
    """A file that another process can open. On Linux it has no name, so that none is left by a kill."""
    with tempfile.TemporaryFile() as file:
        nameless = Path(f"/proc/{os.getpid()}/fd/{file.fileno()}")
        if nameless.exists():
            file.write(data)
            file.flush()
            yield nameless
            return
    with tempfile.NamedTemporaryFile(suffix=".video") as file:
        file.write(data)
        file.flush()
        yield Path(file.name)
