"""Turns at something of which only a few may go on at once: the model, uploads."""

from __future__ import annotations

import asyncio

from fastapi import HTTPException


class Turns:
    """An asynchronous context that lets `at_once` in and lets `waiting` wait.

    Who comes then is refused with status 503 and told to come back.
    """

    def __init__(self, at_once: int, *, waiting: int, what: str) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._waiting = 0
        self._most = waiting
        self._what = what

    async def __aenter__(self) -> None:
        if self._free.locked() and self._waiting >= self._most:
            raise HTTPException(
                503, f"too many {self._what} at once; try again in a moment", {"Retry-After": "2"}
            )
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1

    async def __aexit__(self, *_: object) -> None:
        self._free.release()
