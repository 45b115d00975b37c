"""How long --init_model takes, and how much memory, for full-size published files.

    python benchmarks/checkpoint_loading.py [--dir FOLDER]

Writes synthetic files with published names, shapes and dtypes to FOLDER (up to 1.9 GB at a time, removed
afterwards), loads each into the model in a fresh process, and prints a table. The peak is the process's
memory above that before reading, when it has the model. It includes mapped pages of the file, which the
system can reclaim; "own" does not. For comparison the file is also read completely and made float32 before
loading.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.checkpoint.files import State, read_state, save_state
from engine.checkpoint.weights import load_state
from tests.engine.checkpoint.published import filled, full_size
from tests.engine.checkpoint.test_weights import published_model

FILES = (("english", "ft"), ("english", "pt/bird"), ("chinese", "ft"), ("chinese", "pt/bird"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dir", type=Path, help="folder for the files (default: the system's temporary one)")
    parser.add_argument("--measure", nargs=3, metavar=("HOW", "LANGUAGE", "FILE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        how, language, path = args.measure
        print(json.dumps(measure(how, language, Path(path))))
        return
    print("| file | form | MB | read by | seconds | peak, MB | own, MB |")
    print("| --- | --- | ---: | --- | ---: | ---: | ---: |")
    for language, kind in FILES:
        for suffix in (".bin", ".safetensors"):
            with tempfile.TemporaryDirectory(dir=args.dir) as folder:
                path = Path(folder) / f"published{suffix}"
                save_state(filled(full_size(language, kind)), path)
                for how in READERS:
                    row = _in_fresh_process(how, language, path)
                    print(
                        f"| {language} {kind} | {suffix} | {path.stat().st_size / 1e6:,.0f} | {how} | "
                        f"{row['seconds']:.2f} | {row['peak']:,.0f} | {row['own']:,.0f} |",
                        flush=True,
                    )


def read_all(path: Path) -> State:
    """Read the file completely, then make all of it float32."""
    if path.suffix == ".safetensors":
        state = safetensors.torch.load(path.read_bytes())
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


READERS = {"read_state": read_state, "whole file": read_all}


def measure(how: str, language: str, path: Path) -> dict[str, float]:
    """Seconds and MB of loading `path` into a model of this process."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model: Any = published_model(language, Path(folder))
    for parameter in model.parameters():
        parameter.data.zero_()  # else the model's pages are allocated only while loading
    _reset_peak()
    before = _status()
    start = time.perf_counter()
    state = READERS[how](path)
    load_state(model, state, path=str(path))
    seconds = time.perf_counter() - start
    after = _status()  # `state` is still in memory
    return {
        "seconds": seconds,
        "peak": after["VmHWM"] - before["VmRSS"],
        "own": after["RssAnon"] - before["RssAnon"],
    }


def _in_fresh_process(how: str, language: str, path: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", how, language, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    row: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return row


def _reset_peak() -> None:
    with open("/proc/self/clear_refs", "w", encoding="utf-8") as file:
        file.write("5")


def _status() -> dict[str, float]:
    """Memory of this process in MB, from Linux."""
    with open("/proc/self/status", encoding="utf-8") as file:
        fields = [line.split() for line in file]
    return {field[0].rstrip(":"): int(field[1]) / 1e3 * 1.024 for field in fields if field[-1] == "kB"}


if __name__ == "__main__":
    main()
