"""tools/demo.py: its flags, messages and exit codes; the running program."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from search import Retriever
from search.indexing import index_videos
from tests.processes import fast_python
from tests.search.conftest import COLOURS, coloured, write_model
from tools import demo

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    retriever = Retriever.from_checkpoint(write_model(folder / "model"), device="cpu")
    (folder / "videos").mkdir()
    coloured(folder / "videos" / "red.mp4", COLOURS["red"])
    index_videos(retriever, folder / "index", video_dir=folder / "videos", engine="exact")
    return folder / "index"


@contextmanager
def started(*flags: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The running program, and the lines that it wrote until it was ready."""
    command = [fast_python(), str(ROOT / "tools" / "demo.py"), *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, encoding="utf-8")
    try:
        lines: list[str] = []
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line.rstrip("\n"))
            if "open http" in line:
                break
        yield process, lines
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_answers_until_a_signal_comes(index: Path, number: signal.Signals) -> None:
    pytest.importorskip("gradio", reason="needs requirements-search.txt")
    with started(str(index), "--port", "0") as (process, lines):
        (line,) = lines
        found = re.fullmatch(
            r"1 videos; open (http://127\.0\.0\.1:\d+)/ \(Ctrl-C ends\)", line.replace("video;", "videos;")
        )
        assert found, lines
        for path in ("/", "/health"):
            with urllib.request.urlopen(found.group(1) + path, timeout=20) as answer:
                assert answer.status == 200
        other = urllib.request.Request(found.group(1), headers={"Host": "other.example"})
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(other, timeout=20)
        process.send_signal(number)
        _, rest = process.communicate(timeout=30)
        assert process.returncode == 128 + number and "Traceback" not in rest


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "which index?"),
        (["absent"], "absent: no index there"),
        (["{index}", "--toy"], "--toy makes its own index"),
        (["{index}", "--language", "chinese"], "--out and --language belong to --toy"),
        (["{index}", "--init_model", "absent.bin"], "absent.bin: no such file"),
        (["{index}", "--host", "no.such.name.invalid"], "--host no.such.name.invalid: no such address"),
        (["{index}", "--host", ""], "no such address"),
        (["{index}", "--host", "192.0.2.1"], "cannot listen there on 192.0.2.1"),
    ],
)
def test_wrong_usage_gets_one_line(
    flags: list[str], message: str, index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [flag.format(index=index) for flag in flags]
    assert demo.main([*flags, *([] if "--port" in flags else ["--port", "0"])]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("demo.py: error: ") and error.count("\n") == 1


def test_a_port_in_use(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert demo.main([str(index), "--port", str(port)]) == 2
    assert capsys.readouterr().err == (
        f"demo.py: error: --port {port}: cannot listen there on 127.0.0.1 (Address already in use); "
        "--port 0 takes a free one\n"
    )


@pytest.mark.parametrize("port", ["70000", "-1", "http"])
def test_ports_are_numbers(index: Path, port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        demo.main([str(index), f"--port={port}"])
    assert "must be a number from 0 to 65535" in capsys.readouterr().err


def test_an_index_of_another_model_is_refused(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_model(tmp_path / "other", seed=1)
    assert demo.main([str(index), "--port", "0", "--init_model", str(other)]) == 2
    error = capsys.readouterr().err
    assert "made by another model: checkpoint_sha256" in error and error.count("\n") == 1


def test_a_missing_library_gets_one_line(
    index: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(demo._PACKAGES, "no_such_library", "no-such-library")
    assert demo.main([str(index), "--port", "0"]) == 2
    assert capsys.readouterr().err == (
        "demo.py: error: this needs the package no-such-library: pip install -r requirements-search.txt\n"
    )


def test_only_loopback_goes_without_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    for host in ("127.0.0.1", "::1"):
        demo._print_address(host, host, 1, videos=0)
    assert "warning" not in capsys.readouterr().err
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        demo._print_address(host, host, 1, videos=0)
        assert f"warning: --host {host}: everybody who reaches port 1" in capsys.readouterr().err


def test_the_host_names() -> None:
    parse = demo.build_parser().parse_args
    assert demo._host_names(parse(["x"]), "127.0.0.1") == ("localhost", "127.0.0.1", "[::1]")
    named = demo._host_names(parse(["x", "--host", "Box", "--allow_host", "videos.example"]), "192.0.2.1")
    assert named == ("localhost", "127.0.0.1", "[::1]", "videos.example", "box")
    everywhere = demo._host_names(parse(["x", "--host", "::"]), "::")
    assert socket.gethostname().lower() in everywhere and "[::]" in everywhere
