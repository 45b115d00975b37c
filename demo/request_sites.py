"""Tells requests that a page of another site made, by the headers that browsers add to them.

`Sec-Fetch-Site` and `Sec-Fetch-Mode` come from browsers of 2020 and later, over HTTPS and from this
computer; `Origin` comes from all browsers, with every request that can change something. Pages cannot write
any of them. Programs such as curl send none, and are not what this is about.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers

_READING = ("GET", "HEAD", "OPTIONS")
_OWN_SITES = ("same-origin", "none")  # "none": typed into the address bar, or a bookmark


def is_cross_site(method: str, headers: Headers, hosts: Collection[str]) -> bool:
    """Whether a page of another site sent this request, other than by a link to this server.

    "Same-site" is another site here: a page on another port of this computer is no page of this server.
    `hosts` are the names of this server.
    """
    site = headers.get("sec-fetch-site")
    if site is not None and site not in _OWN_SITES:
        followed_link = method in _READING and headers.get("sec-fetch-mode") == "navigate"
        return not followed_link
    origin = headers.get("origin")
    if origin is None or method in _READING:
        return False
    return not _is_own_origin(origin, headers, hosts, told_by_browser=site == "same-origin")


def _is_own_origin(origin: str, headers: Headers, hosts: Collection[str], *, told_by_browser: bool) -> bool:
    try:
        parts = urlsplit(origin)
        name = (parts.hostname or "").lower()
    except ValueError:
        return False
    if not name:  # "null": a sandboxed page or a file
        return False
    if parts.netloc.lower() == headers.get("host", "").lower():
        return True
    # A proxy may have replaced the header Host.
    return told_by_browser and ("*" in hosts or name in hosts or f"[{name}]" in hosts)
