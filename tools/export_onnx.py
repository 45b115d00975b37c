"""Write the two towers of a model as ONNX files, for programs without torch.

    python tools/export_onnx.py MODEL --out FOLDER [--int8]

MODEL: a checkpoint, an output folder, a saved folder, OWNER/NAME of the hub, or a published model. Writes
video.onnx, text.onnx (of a bilingual model one for each language) and model.json; the number of inputs of
a call is free. Every file is compared with torch before it is kept. docs/ONNX.md says more.
Exit code: 2 for a wrong flag, or a model that cannot be exported, with one line that says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs as a script from any folder
if __name__ == "__main__":
    import common.early_interrupt  # noqa: F401  (Ctrl-C during the imports that follow)

from common.arguments import ArgumentParser
from common.errors import UserError, file_errors, run_program

_PROGRAM = "export_onnx.py"
_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = ArgumentParser(
        prog=_PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL", help="see above")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the files go")
    parser.add_argument("--int8", action="store_true", help="also write quantised files, for CPUs")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program on `argv`; returns its exit code."""
    return run_program(_PROGRAM, lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    arguments = build_parser().parse_args(argv)
    _check_packages()
    with file_errors(f"--out {arguments.out}", "cannot be made"):
        arguments.out.mkdir(parents=True, exist_ok=True)
    from hmmc.model import load_model
    from tools.export.onnx_files import export_model

    for file in export_model(load_model(arguments.model, device="cpu"), arguments.out, int8=arguments.int8):
        print(file)
    return 0


def _check_packages() -> None:
    """Raise `UserError` if a package is not installed."""
    absent = [package for package in _PACKAGES if importlib.util.find_spec(package) is None]
    if absent:
        raise UserError(f"{absent[0]} is not installed: pip install -r requirements-onnx.txt")


if __name__ == "__main__":
    sys.exit(main())
