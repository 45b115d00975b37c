"""All limits for clients: sizes, rates and counts. Importing this file loads no library."""

from __future__ import annotations

from dataclasses import dataclass

from search.query import MAX_QUERY_CHARACTERS

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class Rate:
    """Requests that one client may send: `burst` at once, then `per_second` (0: any number)."""

    per_second: float
    burst: int


@dataclass(frozen=True)
class Limits:
    """The limits of a server. The defaults suit a page for a small group of users.

    `hosts`: names that the Host header may have, without port; "*" allows any name, IPv6 addresses are in
    brackets. Other names are refused, so that a web site cannot reach a server on this computer through a
    name of its own (DNS rebinding). Sizes are in bytes, times in seconds.
    """

    hosts: tuple[str, ...] = LOOPBACK_HOSTS

    query_characters: int = MAX_QUERY_CHARACTERS
    excluded_texts: int = 10

    upload_bytes: int = 64 << 20  # of each file
    body_bytes: int = (64 << 20) + (1 << 20)  # of a request with files
    other_body_bytes: int = 1 << 20  # of any other request
    body_seconds: float = 300.0  # until a request must have arrived
    decode_seconds: float = 30.0  # for decoding an uploaded clip
    clip_seconds: float = 3600.0  # of an uploaded clip
    pixels: int = 50_000_000  # of an uploaded picture, or of a frame of a clip

    upload_folder_bytes: int = 1 << 30  # of all files that the page keeps for further searches
    upload_keep_seconds: float = 3600.0  # how long it keeps them

    # Rates of one client. This computer has no limit.
    search_rate: Rate = Rate(5.0, 30)  # searches and uploads
    other_rate: Rate = Rate(100.0, 1000)  # thumbnails, pieces of videos, files of the page
    clients: int = 10_000  # clients whose rates are remembered

    encodings: int = 1  # model calls at once
    queue_seconds: float = 10.0  # a search may wait so long for the model; further ones get status 503
    waiting: int = 1000  # searches that may wait, however short they are
    uploads: int = 16  # large requests that arrive or are decoded at once
    client_uploads: int = 4  # the same, from one client

    header_seconds: float = 10.0  # until the header of a request must have arrived
    connections: int = 512  # open at once
    client_connections: int = 128  # the same, from one client
