"""Fine-tune a text-video retrieval model, or evaluate one."""

from __future__ import annotations

from collections.abc import Sequence

from engine.program import end_process, program


def main(argv: Sequence[str] | None = None) -> int:
    return program("main_task_retrieval.py", argv)


if __name__ == "__main__":
    end_process(main())
