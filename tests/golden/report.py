"""Print the table of benchmarks/results/golden.md: `python -m tests.golden.report`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from tests.golden import comparison


def main() -> int:
    torch.set_num_threads(1)
    failed = 0
    print("| quantity | largest relative difference | tolerance |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for row in comparison.everything(Path(folder)):
            failed += not row.value <= row.tolerance
            print(f"| `{row.quantity}` | {row.value:.1e} | {row.tolerance:.0e} |", flush=True)
    print(f"\n{failed} beyond tolerance", file=sys.stderr)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
