"""Enforces limits of clients: requests per second, simultaneous large uploads, simultaneous searches."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import math
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import Any

from fastapi import HTTPException

from demo.limits import Rate

_IPV6_PREFIX = 64  # bits; one client usually has all addresses of such a network
_IPV6_LOOPBACK = f"::/{_IPV6_PREFIX}"
_NEWEST_SHARE = 0.2  # of the newest duration in the moving average


class TokenBuckets:
    """One bucket of tokens a client. At most `clients` are kept; the one idle for longest is dropped."""

    def __init__(self, rate: Rate, *, clients: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clients = clients
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, time of the count

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, client: str) -> float:
        """Take a token and return 0, or return the seconds to wait for the next token."""
        if not self._rate.per_second:
            return 0.0
        now = self._clock()
        tokens, counted = self._buckets.pop(client, (float(self._rate.burst), now))
        tokens = min(float(self._rate.burst), tokens + (now - counted) * self._rate.per_second)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / self._rate.per_second
        self._buckets[client] = (tokens if wait else tokens - 1, now)
        while len(self._buckets) > self._clients:
            self._buckets.popitem(last=False)
        return wait


class UploadSlots:
    """Large requests in progress: at most `total`, and `per_client` of one client."""

    def __init__(self, *, total: int, per_client: int) -> None:
        self._total = total
        self._per_client = per_client
        self._used: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._used.total()

    def acquire(self, client: str) -> bool:
        """Take a slot if one is free; the caller must then `release` it."""
        if len(self) >= self._total or self._used[client] >= self._per_client:
            self._drop_zeros()
            return False
        self._used[client] += 1
        return True

    def release(self, client: str) -> None:
        """Give the slot back."""
        self._used.subtract([client])
        self._drop_zeros()

    def _drop_zeros(self) -> None:
        self._used += Counter()


class WaitingLine:
    """An async context for the model: `at_once` requests use it, the others wait in the order of arrival.

    A request waits at most `seconds`. One that would have to wait longer, by the mean duration of the last
    ones, gets status 503 at once, and so does one that finds `waiting` others.
    """

    def __init__(self, at_once: int, *, seconds: float, waiting: int) -> None:
        self._at_once = at_once
        self._seconds = seconds
        self._max_waiting = waiting
        self._waiting: deque[asyncio.Future[bool]] = (
            deque()
        )  # True: it is its turn, False: it waited too long
        self._duration = 0.0  # moving average, in seconds
        self._in_use = 0
        self._starts: dict[asyncio.Task[Any] | None, float] = {}  # of those that use the model

    async def __aenter__(self) -> None:
        if self._in_use < self._at_once:
            self._in_use += 1
        else:
            await self._wait()
        self._starts[asyncio.current_task()] = time.monotonic()

    async def __aexit__(self, *_: object) -> None:
        duration = time.monotonic() - self._starts.pop(asyncio.current_task())
        self._duration += _NEWEST_SHARE * (duration - self._duration)
        self._call_next()

    async def _wait(self) -> None:
        wait = len(self._waiting) * self._duration / self._at_once
        if len(self._waiting) >= self._max_waiting or wait > self._seconds:
            raise self._full(wait)
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[bool] = loop.create_future()
        self._waiting.append(turn)
        timer = loop.call_later(self._seconds, self._give_up, turn)
        try:
            is_turn = await turn
        except asyncio.CancelledError:  # the client is gone
            if not turn.cancelled() and turn.result():
                self._call_next()
            raise
        finally:
            timer.cancel()
        if not is_turn:
            raise self._full(self._seconds)

    def _call_next(self) -> None:
        """Hand the place over to the first that waits, or free it."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(True)
                return
        self._in_use -= 1

    def _give_up(self, turn: asyncio.Future[bool]) -> None:
        with contextlib.suppress(ValueError):
            self._waiting.remove(turn)
        if not turn.done():
            turn.set_result(False)

    def _full(self, wait: float) -> HTTPException:
        headers = {"Retry-After": str(max(1, math.ceil(wait)))}
        return HTTPException(503, "too many searches at once; try again in a moment", headers)


def client_key(address: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 network of an IPv6 address."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((ip, _IPV6_PREFIX), strict=False))
    return str(ip)


def is_loopback(client: str) -> bool:
    """Whether a client, as `client_key` names it, is this computer."""
    if client == _IPV6_LOOPBACK:
        return True
    try:
        return ipaddress.ip_address(client).is_loopback
    except ValueError:
        return False
