"""What clients may ask for: sizes, rates and numbers, in one place. No library is needed to read them."""

from __future__ import annotations

from dataclasses import dataclass

from search.query import MAX_QUERY_CHARACTERS

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class Rate:
    """Requests of one client: `burst` at once, then `per_second`."""

    per_second: float
    burst: int


@dataclass(frozen=True)
class Limits:
    """The limits of a server; the defaults suit a page that one household or group uses.

    `hosts`: names in the Host header that are answered, without port ("*": any); others are refused, which
    keeps pages of other sites from reaching a server on this computer by a name of their own. IPv6 addresses
    stand in brackets. Sizes in bytes, times in seconds.
    """

    hosts: tuple[str, ...] = LOOPBACK_HOSTS

    query_characters: int = MAX_QUERY_CHARACTERS
    excluded_texts: int = 10

    upload_bytes: int = 64 << 20  # of each file
    body_bytes: int = (64 << 20) + (1 << 20)  # of a whole request, whatever route it is for
    body_seconds: float = 300.0  # in which a request must have been sent
    decode_seconds: float = 30.0  # that decoding an uploaded clip may take
    clip_seconds: float = 3600.0  # of an uploaded clip
    pixels: int = 50_000_000  # of an uploaded picture, or of a frame of a clip

    search_rate: Rate = Rate(5.0, 30)  # searches and uploads
    other_rate: Rate = Rate(100.0, 1000)  # thumbnails, pieces of videos, files of the page
    clients: int = 10_000  # addresses whose rates are remembered

    encodings: int = 1  # model calls at once
    waiting: int = 16  # requests that may wait for the model; more are told to come back
    uploads: int = 16  # large requests that arrive, or are decoded, at once
    client_uploads: int = 4  # of them from one client
