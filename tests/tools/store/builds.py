"""Run the builder in tests and read what it wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lmdb

ROOT = Path(__file__).resolve().parents[3]
TOOL = [sys.executable, str(ROOT / "tools" / "frame2lmdb.py")]
GOOD = {"a": 40, "-b.c_1": 12, "视频 d": 5, "e": 90}


def arguments(folder: Path, store: Path, *more: str) -> list[str]:
    return ["--video_dir", str(folder), "--lmdb_path", str(store), "--num_workers", "2", *more]


def contents(path: Path) -> dict[bytes, bytes]:
    with lmdb.open(str(path), readonly=True, lock=False) as env, env.begin() as txn:
        return {bytes(key): bytes(value) for key, value in txn.cursor()}


def failures(store: Path) -> dict[str, str]:
    path = store / "failures.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {line["video_id"]: line["reason"] for line in map(json.loads, lines)}


def run(*argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TOOL, *argv], capture_output=True, text=True, timeout=120, **options)


def start(*argv: str, **trouble: str) -> subprocess.Popen[str]:
    """The tool with a decoder that fails on purpose (tests/tools/store/odd_builder.py)."""
    environment = {**os.environ, **{f"HMMC_TEST_{name.upper()}": value for name, value in trouble.items()}}
    command = [sys.executable, str(ROOT / "tests" / "tools" / "store" / "odd_builder.py"), *argv]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )


def quote(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"
