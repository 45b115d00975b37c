"""Enforces limits of clients: requests per second, simultaneous large uploads, simultaneous searches."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import Counter, OrderedDict
from collections.abc import Callable

from fastapi import HTTPException

from demo.limits import Rate

_IPV6_PREFIX = 64  # bits; one client usually has all addresses of such a network


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
    """An async context for the model: `at_once` requests use it, `waiting` wait, others get status 503."""

    def __init__(self, at_once: int, *, waiting: int) -> None:
        self._semaphore = asyncio.Semaphore(at_once)
        self._waiting = 0
        self._max_waiting = waiting

    async def __aenter__(self) -> None:
        if self._semaphore.locked() and self._waiting >= self._max_waiting:
            raise HTTPException(503, "too many searches at once; try again in a moment", {"Retry-After": "2"})
        self._waiting += 1
        try:
            await self._semaphore.acquire()
        finally:
            self._waiting -= 1

    async def __aexit__(self, *_: object) -> None:
        self._semaphore.release()


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
