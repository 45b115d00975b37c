"""The parts of batches that the loader's processes make: samples of the model from samples of shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from common.languages import LANGUAGES, language_of, languages_of
from dataloaders.encoded_frames import collate
from dataloaders.samples import Sample, SampleMaker, sample_rng
from dataloaders.tar_shards.order import ShardOrder
from dataloaders.tar_shards.raw_samples import BadSampleError, RawSample, Texts
from dataloaders.tar_shards.reader import Fault, ShardReader
from dataloaders.tar_shards.sample_videos import SampleVideos
from dataloaders.tar_shards.stream import Patience
from video.sample import Settings

# (epoch, batch, slot): slot s of n makes the samples of its share of the rank's readers.
Ticket = tuple[int, int, int]
_CAPTION = 4  # a stream of random numbers beside those of order.py


@dataclass(frozen=True)
class TextChoice:
    """Which text of a sample is its caption: `language` as the flag, `use` as --pretrain_text.

    `joined`: all captions of a language are one text, in their order (protocol `paragraph`).
    """

    language: str
    use: str = "both"
    joined: bool = False

    def of(self, texts: Texts, *, turn: int, rng: np.random.Generator) -> tuple[str, str, int | None]:
        """(caption, tag, its language in a bilingual run). n turns give each of n captions once.

        Raises `BadSampleError` if there is no caption in the language.
        """
        choices = [choice for name in languages_of(self.language) for choice in self._in(name, texts)]
        if not choices:
            raise BadSampleError(f"has no {self.language} {'tags' if self.use == 'tag' else 'caption'}")
        return choices[rng.permutation(len(choices))[turn % len(choices)]]

    def _in(self, language: str, texts: Texts) -> list[tuple[str, str, int | None]]:
        captions = [*texts.captions.get(language, ()), *self._unnamed(language, texts)]
        tag = texts.tags.get(language, texts.tags.get("", ""))
        if self.use == "tag":
            captions = [tag] if tag else []
        if self.joined and captions:
            captions = [" ".join(captions)]
        number = LANGUAGES.index(language) if len(languages_of(self.language)) > 1 else None
        return [(caption, tag, number) for caption in captions]

    def _unnamed(self, language: str, texts: Texts) -> list[str]:
        """The captions whose language nobody says: in a bilingual run their letters decide."""
        unnamed = texts.captions.get("", [])
        if len(languages_of(self.language)) == 1:
            return unnamed
        return [text for text in unnamed if language_of(text) == language]


class ShardDataset(Dataset[dict[str, Any]]):
    """Parts of the batches of one rank, which reads with `readers`; `slots` processes share the work.

    `videos`: how video files are decoded, by default as for a store with the default settings.

    Read as `ds[(epoch, batch, slot)]`: the collated samples of the slot's readers, and `faults`, what they
    could not use. The next batch is the cheap one; any other means to read again from an earlier place.
    """

    def __init__(
        self,
        order: ShardOrder,
        samples: SampleMaker,
        texts: TextChoice,
        *,
        readers: range,
        slots: int,
        videos: SampleVideos | None = None,
        patience: Patience | None = None,
    ) -> None:
        assert 1 <= slots <= len(readers)
        self.order = order
        self.readers = readers
        self.slots = slots
        self._samples = samples
        self._texts = texts
        self._videos = videos or SampleVideos(Settings())
        self._patience = patience
        self._open: dict[int, tuple[int, int, list[ShardReader]]] = {}

    def __len__(self) -> int:
        return self.order.batches_per_epoch * self.slots

    @property
    def sample_bytes(self) -> int:
        """Bytes of the frames of one part; the texts are small in comparison."""
        clips = sum(map(self.order.part, self.readers))
        return -(-clips // self.slots) * self._samples.clip_bytes

    def __getitem__(self, ticket: Ticket) -> dict[str, Any]:
        epoch, batch, slot = ticket
        samples: list[Sample] = []
        faults: list[Fault] = []
        for number, reader in zip(self._share(slot), self._readers(epoch, batch, slot), strict=True):
            for _ in range(self.order.part(number)):
                given = reader.take(lambda raw, index: self._make(raw, epoch, index))
                samples.append(given.made | {"replaced": torch.tensor(int(given.replaced))})
            faults += reader.faults
            reader.faults.clear()
        self._open[slot] = (epoch, batch + 1, self._open[slot][2])
        return {**collate(samples), "faults": faults}

    def _share(self, slot: int) -> range:
        count = len(self.readers)
        return self.readers[slot * count // self.slots : (slot + 1) * count // self.slots]

    def _readers(self, epoch: int, batch: int, slot: int) -> list[ShardReader]:
        opened = self._open.get(slot)
        if opened is not None and opened[:2] == (epoch, batch):
            return opened[2]
        for reader in () if opened is None else opened[2]:
            reader.close()
        readers = [
            ShardReader(self.order, epoch, number, batch * self.order.part(number), patience=self._patience)
            for number in self._share(slot)
        ]
        self._open[slot] = (epoch, batch, readers)
        return readers

    def _make(self, raw: RawSample, epoch: int, number: int) -> Sample:
        rng = sample_rng(self.order.seed, epoch, number)
        captions = np.random.default_rng((self.order.seed, _CAPTION, number))
        caption, tag, language = self._texts.of(raw.texts, turn=epoch, rng=captions)
        duration = raw.texts.duration
        if self._samples.dynamic and duration is None:
            raise BadSampleError("has no 'duration', which --frame_sample_len dynamic needs")
        place = {"index": torch.tensor(number), "video": torch.tensor(number)}
        texts = self._samples.training_texts(caption, tag, language=language, rng=rng)
        return self._samples.clip(self._videos.of(raw), duration, rng) | place | texts

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # for processes that are not forked
