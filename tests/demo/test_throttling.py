"""The limits of clients, each alone: buckets of tokens, slots of uploads, the line in front of the model."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from fastapi import HTTPException

from demo.limits import Rate
from demo.throttling import TokenBuckets, UploadSlots, WaitingLine, client_key, is_loopback


def test_buckets_fill_again_and_forget() -> None:
    now = 0.0
    buckets = TokenBuckets(Rate(2.0, 2), clients=3, clock=lambda: now)
    assert [buckets.take("a") for _ in range(3)] == [0, 0, 0.5]
    now = 0.5
    assert [buckets.take("a") for _ in range(2)] == [0, 0.5]
    now = 1000.0
    assert [buckets.take("a") for _ in range(3)] == [0, 0, 0.5]
    for client in "bcdefg":
        buckets.take(client)
    assert len(buckets) == 3 and buckets.take("a") == 0


def test_a_rate_of_zero_is_no_limit() -> None:
    buckets = TokenBuckets(Rate(0.0, 1), clients=1)
    assert [buckets.take("a") for _ in range(5)] == [0] * 5 and len(buckets) == 0


def test_the_client_that_is_idle_for_longest_is_forgotten() -> None:
    buckets = TokenBuckets(Rate(0.5, 1), clients=2, clock=lambda: 0.0)
    assert [buckets.take(client) for client in "abac"] == [0, 0, 2, 0]  # "c" takes the place of "b"
    assert len(buckets) == 2 and buckets.take("a") == 2 and buckets.take("b") == 0


def test_a_bucket_holds_no_more_than_its_burst() -> None:
    now = 0.0
    buckets = TokenBuckets(Rate(4.0, 2), clients=9, clock=lambda: now)
    assert buckets.take("a") == 0
    now = 0.125  # half a token more: 1.5
    assert [buckets.take("a"), buckets.take("a")] == [0, 0.125]
    now = 0.25
    assert [buckets.take("a"), buckets.take("a")] == [0, 0.25]


def test_what_is_one_client() -> None:
    assert client_key("::ffff:1.2.3.4") == client_key("1.2.3.4") == "1.2.3.4"
    assert client_key("2001:db8::1") == client_key("2001:db8::ffff") != client_key("2001:db8:1::1")
    assert client_key("fe80::1%eth0") == client_key("fe80::2") and client_key("socket") == "socket"


def test_large_requests_are_counted() -> None:
    slots = UploadSlots(total=2, per_client=1)
    assert [slots.acquire(client) for client in "aabc"] == [True, False, True, False]
    slots.release("a")
    assert slots.acquire("c") and len(slots) == 2


def test_slots_of_one_client_and_of_all() -> None:
    slots = UploadSlots(total=3, per_client=2)
    assert len(slots) == 0
    assert [slots.acquire(client) for client in "aaabb"] == [True, True, False, True, False]
    assert len(slots) == 3
    slots.release("a")
    assert len(slots) == 2
    assert [slots.acquire("b"), slots.acquire("a")] == [True, False]
    for client in "abb":
        slots.release(client)
    assert len(slots) == 0 and slots.acquire("c") and len(slots) == 1


def test_who_is_this_computer() -> None:
    assert client_key("2001:db8::1") == "2001:db8::/64"
    for address in ("127.0.0.1", "127.255.0.9", "::1", "::ffff:127.0.0.1"):
        assert is_loopback(client_key(address)), address
    for address in ("128.0.0.1", "10.0.0.1", "2001:db8::1", "fe80::1", "::ffff:10.0.0.1", "forwarded", ""):
        assert not is_loopback(client_key(address)), address


async def use(line: WaitingLine, seconds: float, *, count: int) -> list[int]:
    """The statuses of `count` searches of `seconds` that come at once."""

    async def one() -> int:
        try:
            async with line:
                await asyncio.sleep(seconds)
        except HTTPException as error:
            assert "too many searches" in str(error.detail)
            assert int((error.headers or {})["Retry-After"]) >= 1
            return error.status_code
        return 200

    return list(await asyncio.gather(*(one() for _ in range(count))))


def test_few_searches_run_and_few_wait() -> None:
    statuses = asyncio.run(use(WaitingLine(2, seconds=10, waiting=3), 0.01, count=9))
    assert statuses == [200] * 5 + [503] * 4


def test_a_few_seconds_of_work_wait() -> None:
    async def several() -> None:
        line = WaitingLine(1, seconds=5, waiting=1000)
        assert await use(line, 0.002, count=100) == [200] * 100
        line._duration = 0.1  # each search takes a tenth of a second: 50 of them are five seconds of work
        assert await use(line, 0, count=100) == [200] * 52 + [503] * 48

    asyncio.run(several())


def test_a_search_does_not_wait_for_ever() -> None:
    async def several() -> None:
        line = WaitingLine(1, seconds=0.1, waiting=1000)
        assert await use(line, 0.5, count=3) == [200, 503, 503]
        assert await use(line, 0, count=1) == [200]

    asyncio.run(several())


async def enter_with_error(line: WaitingLine) -> HTTPException:
    with pytest.raises(HTTPException) as caught:
        await asyncio.wait_for(line.__aenter__(), 5)
    return caught.value


@pytest.mark.parametrize(("at_once", "seconds", "retry"), [(1, 2.5, "4"), (2, 1.25, "2")])
def test_a_refused_search_says_when_to_come_again(at_once: int, seconds: float, retry: str) -> None:
    """Two wait already, 1.25 s of work each: a wait of exactly `seconds` is allowed, a longer one is not."""

    async def several() -> None:
        line = WaitingLine(at_once, seconds=seconds, waiting=9)
        line._duration = 1.25
        for _ in range(at_once):
            await line.__aenter__()
        tasks = [asyncio.create_task(line.__aenter__()) for _ in range(3)]
        await asyncio.sleep(0)
        assert len(line._waiting) == 3
        refused = await enter_with_error(line)
        assert refused.status_code == 503 and refused.headers == {"Retry-After": retry}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(several())


def test_a_full_line_says_one_second_at_least() -> None:
    async def refused() -> HTTPException:
        line = WaitingLine(1, seconds=5, waiting=0)
        await line.__aenter__()
        return await enter_with_error(line)

    assert asyncio.run(refused()).headers == {"Retry-After": "1"}


def test_the_mean_duration_follows_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([100.0, 110.0, 200.0, 205.0])
    monkeypatch.setattr("demo.throttling.time", SimpleNamespace(monotonic=lambda: next(times)))

    async def two() -> list[float]:
        line, means = WaitingLine(1, seconds=5, waiting=9), []
        for _ in range(2):
            async with line:
                pass
            means.append(line._duration)
        return means

    # A fifth of the way from 0 to 10 s, then a fifth of the way from there to 5 s.
    assert asyncio.run(two()) == pytest.approx([2.0, 2.6])


def test_a_client_that_goes_gives_its_place_to_the_next() -> None:
    async def several(*, has_turn: bool) -> None:
        line = WaitingLine(1, seconds=5, waiting=9)
        await line.__aenter__()
        gone = asyncio.create_task(line.__aenter__())
        following = asyncio.create_task(line.__aenter__())
        await asyncio.sleep(0)
        if not has_turn:
            gone.cancel()
            await asyncio.sleep(0)
        await line.__aexit__()
        if has_turn:  # it is told, and is cancelled before it goes on
            gone.cancel()
        await asyncio.wait_for(following, 5)
        assert gone.done() and gone.cancelled()
        assert line._in_use == 1

    for has_turn in (False, True):
        asyncio.run(several(has_turn=has_turn))


def test_a_client_that_goes_when_its_time_is_over_frees_nothing() -> None:
    async def one() -> None:
        line = WaitingLine(1, seconds=5, waiting=9)
        await line.__aenter__()
        gone = asyncio.create_task(line.__aenter__())
        await asyncio.sleep(0)
        line._give_up(line._waiting[0])
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert gone.cancelled() and line._in_use == 1

    asyncio.run(one())


def test_a_turn_that_comes_with_the_end_of_the_time_counts() -> None:
    async def one() -> None:
        line = WaitingLine(1, seconds=5, waiting=9)
        await line.__aenter__()
        waiter = asyncio.create_task(line.__aenter__())
        await asyncio.sleep(0)
        turn = line._waiting[0]
        await line.__aexit__()
        line._give_up(turn)
        await asyncio.wait_for(waiter, 5)

    asyncio.run(one())


def test_who_waited_too_long_leaves_the_line() -> None:
    async def several() -> None:
        line = WaitingLine(1, seconds=0.02, waiting=1)
        await line.__aenter__()
        assert (await enter_with_error(line)).headers == {"Retry-After": "1"}
        line._seconds = 5
        following = asyncio.create_task(line.__aenter__())
        await asyncio.sleep(0)
        assert not following.done()
        await line.__aexit__()
        await asyncio.wait_for(following, 5)

    asyncio.run(several())
