"""From a command line to an exit code, for both entry scripts.

Flags and paths are checked before torch is imported, so that `--help` and a typing error answer at once.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import multiprocessing.util
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from common.commands import as_called
from common.errors import UserError, refusal, run_program
from engine.config_checks import parse_and_check
from engine.distributed.environment import is_one_of_several, place_of
from engine.distributed.launchers import launcher_variables, require_master_address
from engine.input_files import require_files
from engine.process.errors import StoppedBySignal, TrainingStopped, explain
from engine.process.signals import EXIT_AGAIN, NOTHING_TRAINED, StopRequest


def program(name: str, argv: Sequence[str] | None, stop: StopRequest) -> int:
    """Run `name` with `argv`; `stop` knows of signals that came earlier. Returns the exit code:

    0 done, or stopped by a signal with everything saved; 1 training stopped, a checkpoint of a folder could
    not be evaluated, or a bug, whose traceback is printed; 2 bad input; 75 a training stopped by a signal
    before it had opened its log; 128 + n stopped by signal n (130 by Ctrl-C).
    """
    return run_program(name, lambda: _program(name, argv, stop))


def end_process(code: int) -> NoReturn:
    """End this process; with several ranks or processes left, without Python's own shutdown.

    Threads of a process group outlive `destroy_process_group` while anything refers to the group, as DDP and
    torch's caches of device meshes do. If such a thread frees its last tensor while Python shuts down, it
    needs the interpreter, which no longer exists. Then the process aborts (SIGABRT) although all its work is
    done. Python would also wait without end for a loader process that cannot be killed.
    """
    left = bool(multiprocessing.active_children())
    if left:
        atexit.unregister(multiprocessing.util._exit_function)  # type: ignore[attr-defined]
    if left or is_one_of_several():
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # the stream is closed
                stream.flush()
        os._exit(code)
    sys.exit(code)


def _program(name: str, argv: Sequence[str] | None, stop: StopRequest) -> int:
    try:
        os.environ.update(launcher_variables(os.environ))
        config, remarks = parse_and_check(argv, program=name)
        with stop.interruptible(NOTHING_TRAINED, saved=config.is_training, code=EXIT_AGAIN):
            require_files(config)
            place_of(local_rank=config.local_rank)  # wrong variables are reported before torch is imported
            require_master_address(os.environ)
            from engine.run import run
        return run(config, remarks, stop=stop)
    except StoppedBySignal as stopped:
        print(f"{as_called(name)}: {stopped}", file=sys.stderr)
        return stopped.exit_code
    except TrainingStopped as error:
        print(f"{as_called(name)}: stopped: {error}", file=sys.stderr)
        return 1
    except UserError as error:
        message = _without_worker_traceback(error)
        if message == str(error):
            raise
        raise UserError(message) from error
    except Exception as error:
        refused = refusal(error) if isinstance(error, OSError) else None
        if refused is not None:
            raise refused from error
        explanation = explain(error)
        if explanation is None:
            traceback.print_exc()
        else:
            print(f"{as_called(name)}: {explanation}", file=sys.stderr)
        return 1


def _without_worker_traceback(error: UserError) -> str:
    """The message, without the traceback that an error from a loader process contains."""
    lines = str(error).strip().splitlines()
    if len(lines) > 1 and "DataLoader worker" in lines[0]:
        return lines[-1].partition(": ")[2]
    return str(error)
