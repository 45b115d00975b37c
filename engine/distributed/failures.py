"""The reason why one rank ends, told to all other ranks, so that every rank ends within seconds.

An error on one rank leaves the others in a collective operation that never completes: gloo raises an error
that does not say why, NCCL waits until its timeout. So each rank watches a key of the ranks' store in a
thread. A rank that fails writes its reason there. The main thread of another rank gets `GRACE_S` to end by
itself, then the thread prints the reason and ends the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch.distributed as dist

from common.commands import NAMESPACE
from common.errors import one_line
from engine.process.errors import LOST_RANK, NO_ANSWER, EndedRank, explain, program_name

WATCH_EVERY_S = 0.2
GRACE_S = 5.0
REASON_WAIT_S = 2.0  # a connection may break before the reason of the rank behind it is written
LEAVE_WAIT_S = 5.0
RECONNECT_S = 10.0  # a broken connection to the store need not mean that it is gone
EXIT_CODE = 1
WRITING_S = 300.0  # longest time that is given to a thread which writes a training state
UNKNOWN = f"{LOST_RANK} without a reason: it was killed, or a library crashed; see the output of the ranks"


class Failures:
    """Tells other ranks why this rank ends, and this rank why another one ended.

    `connect` opens a connection to the store, of which this class uses the keys under `prefix`. `served`: the
    store itself if this process serves it. It ends with this process, which therefore ends last.
    """

    def __init__(
        self,
        connect: Callable[[], dist.Store],
        prefix: str,
        *,
        rank: int,
        size: int,
        served: dist.Store | None = None,
    ) -> None:
        self._connect = connect
        self._prefix = prefix
        self.rank = rank
        self.size = size
        self._served = served
        self.warn: Callable[[str], None] = _ignore  # the run's log
        self._reason: str | None = None
        self._ending = threading.Event()
        self._stop = threading.Event()
        self._left = False
        self._store: dist.Store = dist.PrefixStore(prefix, connect())
        self._thread = threading.Thread(target=self._watch, name="watch other ranks", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """A block whose exception is told to the other ranks, unless it comes from the end of one of them.

        In that case `EndedRank` is raised with that rank's reason.
        """
        try:
            yield
        except BaseException as error:
            self._ending.set()
            if isinstance(error, EndedRank):
                raise
            said = explain(error) if isinstance(error, Exception) else None
            if said not in (LOST_RANK, NO_ANSWER):
                self.tell((said or _describe(error)).removeprefix("stopped: "))
                raise
            reason = self._wait_for_reason()
            unknown = UNKNOWN if said == LOST_RANK else NO_ANSWER
            raise EndedRank(f"stopped: {reason}" if reason else unknown) from error

    def tell(self, reason: str) -> None:
        """Write the reason why this rank ends, for the other ranks and for torchrun's summary."""
        text = f"rank {self.rank} ended: {reason}"
        with contextlib.suppress(RuntimeError):  # the store is gone: so is the rank that serves it
            self._store.compare_set("failure", "", text)
        _tell_launcher(text)

    def close(self) -> None:
        """Stop watching. The rank that serves the store waits some seconds for the others to leave it."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join(WATCH_EVERY_S + GRACE_S)
        if self._served is None:
            self._leave()
            return
        with contextlib.suppress(RuntimeError):
            self._store.set("closed", "")
            end = time.monotonic() + LEAVE_WAIT_S
            while self._store.add("left", 0) < self.size - 1 and time.monotonic() < end:
                time.sleep(WATCH_EVERY_S / 10)

    def _watch(self) -> None:
        while not self._stop.wait(WATCH_EVERY_S):
            try:
                if self._store.check(["failure"]):
                    self._reason = self._store.get("failure").decode()
                    self._leave()
                    self._end_process(f"stopped: {self._reason}")
                    return
                if self._served is None and self._store.check(["closed"]):
                    self._stop.set()
                    self._leave()
                    return
            except RuntimeError:  # torch raises no narrower kind in all of its versions
                if not self._reconnect():
                    self._end_process(UNKNOWN)
                    return

    def _leave(self) -> None:
        """Say, once, that this rank needs the store no more."""
        if not self._left and self._served is None:
            self._left = True
            with contextlib.suppress(RuntimeError):
                self._store.add("left", 1)

    def _reconnect(self) -> bool:
        """Whether the store is there again, or no longer needed."""
        end = time.monotonic() + RECONNECT_S
        while time.monotonic() < end and not self._stop.wait(WATCH_EVERY_S):
            with contextlib.suppress(Exception):
                store = dist.PrefixStore(self._prefix, self._connect())
                store.check(["failure"])
                self._store = store
                return True
        return self._stop.is_set()

    def _end_process(self, message: str) -> None:
        """End this process unless the main thread does so itself. Threads that write files finish first."""
        start = time.monotonic()
        while (waited := time.monotonic() - start) < GRACE_S or (
            waited < WRITING_S and _unfinished_threads()
        ):
            if self._ending.is_set() or self._stop.wait(WATCH_EVERY_S):
                return
        self.warn(message)
        print(f"{program_name()}: {message}", file=sys.stderr, flush=True)
        os._exit(EXIT_CODE)

    def _wait_for_reason(self) -> str | None:
        end = time.monotonic() + REASON_WAIT_S
        while self._reason is None and self._thread.is_alive() and time.monotonic() < end:
            time.sleep(WATCH_EVERY_S / 10)
        return self._reason


def _describe(error: BaseException) -> str:
    """One line: the message, with the name of the exception where it is a bug."""
    text = one_line(error)
    ours = type(error).__module__.startswith((f"{NAMESPACE}common.", f"{NAMESPACE}engine."))
    known = ours or not isinstance(error, Exception)
    return text if known and text else f"{type(error).__name__}: {text}"


def _unfinished_threads() -> bool:
    """Whether a thread runs that Python itself would wait for at the end of the process."""
    here = (threading.main_thread(), threading.current_thread())
    return any(thread not in here and not thread.daemon for thread in threading.enumerate())


def _tell_launcher(text: str) -> None:
    """Write the file from which torchrun takes the reason in its summary of failed ranks."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path:
        return
    extra = {"py_callstack": "", "timestamp": str(int(time.time()))}
    content = {"message": {"message": text, "extraInfo": extra}}
    with contextlib.suppress(OSError):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(content), encoding="utf-8")


def _ignore(text: str) -> None:
    pass
