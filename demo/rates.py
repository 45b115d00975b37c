"""How many requests a client may send: a bucket of tokens for each address; how many large ones at once."""

from __future__ import annotations

import ipaddress
import time
from collections import Counter, OrderedDict
from collections.abc import Callable

from demo.limits import Rate

_PREFIX = 64  # bits of an IPv6 address that one client may have all addresses of


class Buckets:
    """Buckets by client; the one that was not seen for longest is forgotten when there are `clients`."""

    def __init__(self, rate: Rate, *, clients: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clients = clients
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, seconds of the clock

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, client: str) -> float:
        """Seconds to wait before the next request; 0 where this one may pass, which takes a token."""
        now = self._clock()
        tokens, before = self._buckets.pop(client, (float(self._rate.burst), now))
        tokens = min(float(self._rate.burst), tokens + (now - before) * self._rate.per_second)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / self._rate.per_second
        self._buckets[client] = (tokens if wait else tokens - 1, now)
        while len(self._buckets) > self._clients:
            self._buckets.popitem(last=False)
        return wait


class Large:
    """Counts large requests under way: `most` in all, `most_each` of a client."""

    def __init__(self, *, most: int, most_each: int) -> None:
        self._most = most
        self._most_each = most_each
        self._clients: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._clients.total()

    def enter(self, client: str) -> bool:
        """Whether one more may come; then `leave` must be called when it is done."""
        if len(self) >= self._most or self._clients[client] >= self._most_each:
            self._clients += Counter()  # drops the zeros that looking left
            return False
        self._clients[client] += 1
        return True

    def leave(self, client: str) -> None:
        self._clients.subtract([client])
        self._clients += Counter()


def client_of(address: str) -> str:
    """What counts as one client: an IPv4 address, or the network of an IPv6 address."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((ip, _PREFIX), strict=False))
    return str(ip)
