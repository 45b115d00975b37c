"""How the ranks find each other: a key-value store that rank 0 or the launcher serves.

All waiting is done in Python in short steps, so that a signal ends it at once.
"""

from __future__ import annotations

import datetime
import secrets
import socket
import sys
import time
from collections.abc import Callable

import torch.distributed as dist

from common.errors import UserError, one_line
from engine.distributed.environment import Place
from engine.process.errors import program_name

TIMEOUT = datetime.timedelta(minutes=30)
OPEN_TIMEOUT = datetime.timedelta(minutes=1)  # what answers at the port may be another program
NOTICE_AFTER_S, NOTICE_EVERY_S = 5.0, 60.0
STEP_S = 0.05
CONNECT_S = 2.0  # for one attempt


class _Waiting:
    """A wait that says what it waits for: after some seconds, then once a minute. Ends with `TIMEOUT`."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.start = time.monotonic()
        self.next_notice = self.start + NOTICE_AFTER_S

    def step(self, what: str) -> None:
        """Wait a moment for `what`. Raises `UserError` after `TIMEOUT`."""
        now = time.monotonic()
        if now - self.start > TIMEOUT.total_seconds():
            raise UserError(f"rank {self.place.rank} gives up waiting for {what}")
        if now > self.next_notice:
            self.next_notice = now + NOTICE_EVERY_S
            print(f"{program_name()}: waiting for {what}", file=sys.stderr, flush=True)
        time.sleep(STEP_S)


def connect(place: Place) -> dist.TCPStore:
    """A connection to the store. Rank 0 serves it from here on, unless the launcher does.

    The others wait until it is served. Raises `UserError` if rank 0 cannot serve it.
    """
    if place.serves:
        return _open(place, serves=True)
    waiting = _Waiting(place)
    while True:
        try:
            return connect_again(place)
        except OSError as error:
            whom = "the launcher" if place.launcher_serves else "rank 0"
            waiting.step(f"{whom} at {place.endpoint} ({one_line(error)})")


def connect_again(place: Place) -> dist.TCPStore:
    """A further connection to the store. Raises `OSError` if nothing answers there."""
    # torch itself would try again for minutes, in C++, where signals have no effect.
    socket.create_connection((place.host, place.port), timeout=CONNECT_S).close()
    return _open(place, serves=False)


def _open(place: Place, *, serves: bool) -> dist.TCPStore:
    try:
        store = dist.TCPStore(
            place.host,
            place.port,
            place.size,
            serves,
            OPEN_TIMEOUT,
            wait_for_workers=False,  # `meet` waits, in steps that a signal can interrupt
            multi_tenant=True,
        )
    except RuntimeError as error:  # a port in use, a machine that does not answer
        raise UserError(f"rank {place.rank} cannot connect to the other ranks: {one_line(error)}") from None
    store.set_timeout(TIMEOUT)
    return store


def meet(place: Place, store: dist.Store) -> str:
    """Wait for all ranks. Returns a key prefix for this start that all ranks share.

    torchrun keeps one store over its restarts, and the store keeps the addresses of ended processes. A rank
    that reads an address before its owner has overwritten it would connect to an ended process. So each start
    uses a key prefix that no earlier start used. The launcher's count of restarts cannot be the prefix,
    because nodes may count differently.
    """
    waiting = _Waiting(place)
    if place.rank:
        return _join(place, store, waiting.step)
    return _lead(place, store, waiting.step)


def _lead(place: Place, store: dist.Store, wait: Callable[[str], None]) -> str:
    """Rank 0's part: answer every id that is in the store, until all ranks have confirmed the prefix.

    It also answers ids of ended processes: nobody reads those answers.
    """
    prefix = f"start {secrets.token_hex(8)}"
    absent = set(range(1, place.size))
    while absent:
        for other in list(absent):
            if store.check([f"question of {other}"]):
                store.set(f"answer to {store.get(f'question of {other}').decode()}", prefix)
            if store.check([f"{prefix} confirmed by {other}"]):
                absent.remove(other)
        if absent:
            first = sorted(absent)[:8]
            names = ", ".join(map(str, first)) + (", ..." if len(absent) > len(first) else "")
            wait(f"{len(absent)} of {place.size} ranks at {place.endpoint} (rank {names})")
    store.set(f"{prefix} complete", "")
    return prefix


def _join(place: Place, store: dist.Store, wait: Callable[[str], None]) -> str:
    """The part of the others: ask under a new random id, confirm the prefix in the answer."""
    random_id = secrets.token_hex(8)
    store.set(f"question of {place.rank}", random_id)
    while not store.check([f"answer to {random_id}"]):
        wait(f"rank 0 at {place.endpoint}")
    prefix = store.get(f"answer to {random_id}").decode()
    store.set(f"{prefix} confirmed by {place.rank}", "")
    while not store.check([f"{prefix} complete"]):
        wait(f"other ranks at {place.endpoint}; rank 0 names them")
    return prefix
