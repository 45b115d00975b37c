"""The server behind `tests.processes.fast_python`: imports everything once, then forks a process a request.

Usage: python -m tests.fork_server ADDRESS. It listens on the Unix socket ADDRESS and ends, with all that it
started, when its standard input ends.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import resource
import runpy
import select
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

from tests.processes import schedule_normally

# What the programs and their tests import sooner or later; none of it may start a thread.
MODULES = (
    *("pytest", "torch", "torch.distributed.run", "torch.distributed.fsdp", "torch.utils.tensorboard"),
    *("cv2", "lmdb", "matplotlib.pyplot", "open_clip", "transformers.models.bert.modeling_bert"),
    *("main_pretrain", "main_task_retrieval", "engine.run", "search.retriever", "search.indexing"),
    *("tools.make_toy_dataset", "tools.frame2lmdb", "tests.e2e.conftest"),
)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def main(address: str) -> None:
    for name in MODULES:
        importlib.import_module(name)
    assert threading.active_count() == 1 and len(os.listdir("/proc/self/task")) == 1, "a fork would hang"
    gc.collect()
    gc.freeze()
    request = serve(address)
    if request is not None:
        run(request)


def serve(address: str) -> dict[str, Any] | None:
    """Answer requests; returns None at the end, and in each forked process its request."""
    for number in SIGNALS:  # those to the group of the tests: they end this server by closing its input
        signal.signal(number, signal.SIG_IGN)
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{address}.new")
    listener.listen(64)
    Path(f"{address}.new").rename(address)  # it is there once it answers
    pids: dict[socket.socket, int] = {}
    try:
        while True:
            ready, _, _ = select.select([0, woken, listener, *pids], [], [])
            if 0 in ready:
                return None
            if woken in ready:
                woken.recv(4096)
                _tell_ends(pids)
            for connection in set(ready) & set(pids):
                _pass_signals(connection, pids)
            if listener in ready:
                connection, _ = listener.accept()
                try:
                    request = _read_request(connection)
                except (EOFError, ConnectionError):
                    connection.close()
                    continue
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    for other in (woken, wake, listener, connection, *pids):
                        other.close()
                    pids = {}
                    return request
                pids[connection] = pid
                for descriptor in request["files"]:
                    os.close(descriptor)
    finally:
        for pid in pids.values():
            _kill_group(pid)
            os.waitpid(pid, 0)


def _read_request(connection: socket.socket) -> dict[str, Any]:
    """Raises `EOFError` where the caller was killed before it had sent all."""
    start, files, _, _ = socket.recv_fds(connection, 8, 3)
    size, content = int.from_bytes(start, "big"), b""
    while not size or len(content) < size:
        part = connection.recv(1 << 20)
        if not part:
            for descriptor in files:
                os.close(descriptor)
            raise EOFError
        content += part
    return {**json.loads(content), "files": files}


def _tell_ends(pids: dict[socket.socket, int]) -> None:
    """Reap what has ended; its caller gets the code."""
    for connection, pid in list(pids.items()):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            with contextlib.suppress(OSError):
                connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
            connection.close()
            del pids[connection]


def _pass_signals(connection: socket.socket, pids: dict[socket.socket, int]) -> None:
    pid = pids.get(connection)
    if pid is None:  # it has ended just now
        return
    try:
        numbers = connection.recv(64)
    except OSError:
        numbers = b""
    for number in numbers:
        os.kill(pid, number)
    if not numbers:  # the caller is dead
        _kill_group(pid)
        os.waitpid(pid, 0)
        connection.close()
        del pids[connection]


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def run(request: dict[str, Any]) -> NoReturn:
    """Become the process that `request` wants: as `python ARGV` would run, up to its end."""
    os.setsid()
    schedule_normally()
    for number, descriptor in enumerate(request["files"]):
        os.dup2(descriptor, number)
        os.close(descriptor)
    _open_streams(unbuffered=bool(request["environment"].get("PYTHONUNBUFFERED")))
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    resource.setrlimit(resource.RLIMIT_FSIZE, tuple(request["file_size"]))
    for number in (signal.SIGCHLD, *SIGNALS):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in request["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    code = 0
    try:
        _run_command(request["argv"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if end.code is not None and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    # Python's own end would free all that was imported: that takes longer than many a program.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code & 0xFF)


def _open_streams(*, unbuffered: bool) -> None:
    """Python's streams anew: the server's know what kind of file theirs was."""
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), "utf-8")  # type: ignore[misc]
    for name, errors, number in (("stdout", "strict", 1), ("stderr", "backslashreplace", 2)):
        binary = io.BufferedWriter(io.FileIO(number, "w", closefd=False))
        lines = unbuffered or number == 2 or binary.isatty()
        stream = io.TextIOWrapper(binary, "utf-8", errors, line_buffering=lines, write_through=unbuffered)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _run_command(argv: list[str]) -> None:
    option, *rest = argv[1:] if argv[0] == "-u" else argv
    if option == "-c":
        sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
        namespace = {"__name__": "__main__", "__builtins__": __builtins__}
        exec(compile(rest[0], "<string>", "exec"), namespace)
    elif option == "-m":
        sys.argv, sys.path[0] = rest, os.getcwd()
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        assert not option.startswith("-"), f"{option}: not an option that forks know"
        sys.argv, sys.path[0] = [option, *rest], str(Path(option).resolve().parent)
        runpy.run_path(option, run_name="__main__")


if __name__ == "__main__":
    # As a module of its own name, so that nothing of the server lies in the forks' `__main__`.
    from tests import fork_server

    fork_server.main(sys.argv[1])
