"""Fine-tune a text-video retrieval model, or evaluate one."""

from __future__ import annotations

from collections.abc import Sequence

from engine.process.signals import StopRequest


def main(argv: Sequence[str] | None = None) -> int:
    with StopRequest() as stop:  # before the imports, which may take long: no signal is lost
        from engine.program import program

        return program("main_task_retrieval.py", argv, stop)


if __name__ == "__main__":
    code = main()
    from engine.program import end_process

    end_process(code)
