"""How many samples each shard holds: `sizes.json` beside the shards, as webdataset's users have it.

    {"000000.tar": 1000, "000001.tar": 998}

`tools/make_shards.py` writes it. Without it, shards on a local disk are counted, which reads their headers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from common.errors import UserError, one_line
from dataloaders.tar_shards.addresses import (
    file_system,
    folder_and_name,
    is_remote,
    shard_addresses,
    split_sources,
)
from dataloaders.tar_shards.members import read_members
from dataloaders.tar_shards.raw_samples import key_and_suffix
from dataloaders.tar_shards.stream import Patience, ShardError, ShardStream

INDEX_FILE = "sizes.json"
_COUNTERS = 8  # threads


@dataclass(frozen=True)
class Source:
    """The shards of one source: addresses and numbers of samples. `exact`: the numbers are no guesses.

    An epoch takes `weight` times as many samples as the source has.
    """

    name: str
    addresses: tuple[str, ...]
    samples: tuple[int, ...]
    weight: float = 1.0
    exact: bool = True

    @property
    def total(self) -> int:
        return sum(self.samples)

    @property
    def per_epoch(self) -> int:
        """The samples that an epoch takes of it."""
        return max(1, round(self.weight * self.total))


def open_sources(
    text: str,
    weights: str | None,
    *,
    samples_per_epoch: int | None = None,
    patience: Patience | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> list[Source]:
    """The sources of `--shards`, with the weights of `--shard_weights`.

    `samples_per_epoch`: what shards without `sizes.json` hold together, equally many each. Raises `UserError`
    where a source has no shards, or where nobody says how many samples remote ones have.
    """
    names = split_sources(text)
    factors = _weights(weights, len(names))
    listed = [shard_addresses(name) for name in names]
    sizes = [_listed_sizes(addresses, patience) for addresses in listed]
    guessed = sum(len(addresses) for addresses, found in zip(listed, sizes, strict=True) if found is None)
    sources = []
    for name, addresses, found, weight in zip(names, listed, sizes, factors, strict=True):
        exact = found is not None or samples_per_epoch is None
        if found is None and samples_per_epoch is not None:
            each = math.ceil(samples_per_epoch / guessed)
            found = [each] * len(addresses)
            say(f"{name}: has no {INDEX_FILE}; taking {each:,} samples from each shard (--samples_per_epoch)")
        elif found is None:
            found = _count_local(name, addresses, patience, say)
        if not sum(found):
            raise UserError(f"--shards {name}: its {len(addresses)} shards hold no sample")
        sources.append(Source(name, tuple(addresses), tuple(found), weight, exact))
    return sources


def _weights(text: str | None, sources: int) -> list[float]:
    if text is None:
        return [1.0] * sources
    try:
        weights = [float(part) for part in text.split("::")]
    except ValueError:
        weights = []
    if len(weights) != sources or not all(0 < weight < math.inf for weight in weights):
        raise UserError(f"--shard_weights {text}: give {sources} numbers above 0, as 1::0.5, one a source")
    return weights


def _listed_sizes(addresses: Sequence[str], patience: Patience | None) -> list[int] | None:
    """The numbers of samples from the `sizes.json` of the shards' folders; None where none has this file."""
    folders = dict.fromkeys(folder_and_name(address)[0] for address in addresses)
    tables = {folder: read_index(folder, patience) for folder in folders}
    if not any(tables.values()):
        return None
    sizes = []
    for folder, name in map(folder_and_name, addresses):
        table = tables[folder]
        if table is None or name not in table:
            raise UserError(
                f"{folder}/{INDEX_FILE}: does not list {name}; count anew: python tools/make_shards.py count"
            )
        sizes.append(table[name])
    return sizes


def read_index(folder: str, patience: Patience | None = None) -> dict[str, int] | None:
    """The `sizes.json` of a folder; None if there is none. Raises `UserError` if it has another form."""
    address = f"{folder}/{INDEX_FILE}" if folder else INDEX_FILE
    stream = ShardStream(address, patience=patience)
    try:
        content = stream.read(1 << 30)
    except ShardError as error:
        if isinstance(error.__cause__, FileNotFoundError | PermissionError):
            return None  # S3 answers "forbidden" for a missing file where listing is not allowed
        raise UserError(str(error)) from None
    finally:
        stream.close()
    try:
        table = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{address}: cannot be read as JSON ({one_line(error)})") from None
    if not isinstance(table, dict) or not all(map(_is_count, table.values())):
        raise UserError(f'{address}: must be {{"NAME.tar": SAMPLES, ...}} with whole numbers')
    return table


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def write_index(folder: str, sizes: dict[str, int]) -> str:
    """Write `sizes.json` beside the shards, where fsspec can write; returns its address."""
    address = f"{folder}/{INDEX_FILE}" if folder else INDEX_FILE
    system, path = file_system(address)
    try:
        system.pipe_file(path, (json.dumps(sizes, indent=1, ensure_ascii=False) + "\n").encode())
    except Exception as error:
        raise UserError(f"{address}: cannot be written ({one_line(error)})") from None
    return address


def _count_local(
    name: str, addresses: Sequence[str], patience: Patience | None, say: Callable[[str], None]
) -> list[int]:
    if any(map(is_remote, addresses)):
        raise UserError(
            f"--shards {name}: has no {INDEX_FILE}; write one (python tools/make_shards.py count {name}), "
            "or say how many samples there are (--samples_per_epoch)"
        )
    say(f"{name}: has no {INDEX_FILE}; counting the samples of {len(addresses):,} shards")
    return count_shards(addresses, patience)


def count_shards(addresses: Sequence[str], patience: Patience | None = None) -> list[int]:
    """The samples of each shard, by reading its headers. Raises `UserError` for one that cannot be read."""
    with ThreadPoolExecutor(_COUNTERS) as pool:
        return list(pool.map(lambda address: _count(address, patience), addresses))


def _count(address: str, patience: Patience | None) -> int:
    stream = ShardStream(address, patience=patience, block=1 << 18)
    try:
        return _count_keys(member.name for member in read_members(stream, lambda _: 0) if member)
    except ShardError as error:
        raise UserError(f"{error}; make or fetch it again, or leave it out of the list") from None
    finally:
        stream.close()


def _count_keys(names: Iterable[str]) -> int:
    count, last = 0, None
    for name in names:
        parts = key_and_suffix(name)
        if parts is not None and parts[0] != last:
            last = parts[0]
            count += 1
    return count
