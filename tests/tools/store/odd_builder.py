"""tools/frame2lmdb.py with a decoder that crashes, loops or waits, for tests that kill it.

It commits far more often than the tool does, so that small videos too are stored in steps. The environment
says what goes wrong: HMMC_TEST_DIES and HMMC_TEST_LOOPS are video ids, HMMC_TEST_DAWDLES is seconds a video.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tools import frame2lmdb
from tools.store import build as build_store
from video.sample import Job, probe, run_job
from video.worker_pool import Output


def work(task: Job | Path) -> Output:
    if not isinstance(task, Job):
        return probe(task)
    if task.video_id == os.environ.get("HMMC_TEST_DIES"):
        os.kill(os.getpid(), signal.SIGSEGV)
    while task.video_id == os.environ.get("HMMC_TEST_LOOPS"):
        time.sleep(0.1)
    time.sleep(float(os.environ.get("HMMC_TEST_DAWDLES", "0")))
    return run_job(task)


if __name__ == "__main__":
    build_store._work = work
    build_store._COMMIT_EVERY = 0.01
    sys.exit(frame2lmdb.main())
