"""Stand-ins for srun and scontrol: tasks on this machine, with the variables that Slurm sets."""

from __future__ import annotations

import os
import stat
from pathlib import Path

SRUN = """#!/usr/bin/env bash
# Starts every task with its numbers; the first bad exit ends the others (--kill-on-bad-exit).
printf '%s\\n' "$@" > "$SLURM_STUB/srun_arguments"
while [[ $1 == --* ]]; do shift; done
tasks=()
for ((task = 0; task < SLURM_NTASKS; task++)); do
    local_task=$((task % SLURM_TASKS_PER_NODE_STUB))
    SLURM_PROCID=$task SLURM_LOCALID=$local_task SLURM_STEP_NUM_TASKS=$SLURM_NTASKS SLURM_STEP_ID=0 \
        SLURM_STEP_NODELIST=127.0.0.1,node-of-another-name "$@" &
    tasks+=($!)
done
echo "${tasks[@]}" > "$SLURM_STUB/pids.tmp" && mv "$SLURM_STUB/pids.tmp" "$SLURM_STUB/pids"
worst=0
for _ in "${tasks[@]}"; do
    wait -n || { code=$?; [ "$worst" != 0 ] || worst=$code; kill "${tasks[@]}" 2> /dev/null; }
done
exit "$worst"
"""
SCONTROL = """#!/usr/bin/env bash
case "$1 $2" in
    "show job") echo "JobId=4711 JobState=${STUB_JOB:-RUNNING Reason=None Restarts=0} BatchFlag=1" ;;
    requeue*) echo "$2" >> "$SLURM_STUB/requeued" ;;
    *) exit 1 ;;
esac
"""


class SlurmStub:
    """A job of `tasks` tasks; `environment` is what its batch script gets."""

    def __init__(self, folder: Path, *, tasks: int, tasks_per_node: int) -> None:
        self.folder = folder
        folder.mkdir()
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
            (folder / name).write_text(text, encoding="utf-8")
            (folder / name).chmod(stat.S_IRWXU)
        self.environment = {
            "PATH": f"{folder}:{os.environ['PATH']}",
            "SLURM_STUB": str(folder),
            "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NODELIST": "node[0-1]",
            "SLURM_NTASKS": str(tasks),
            "SLURM_TASKS_PER_NODE_STUB": str(tasks_per_node),
            "SLURM_CPUS_PER_TASK": "3",
        }

    def srun_arguments(self) -> list[str]:
        return (self.folder / "srun_arguments").read_text(encoding="utf-8").splitlines()

    def task_pids(self) -> list[int]:
        path = self.folder / "pids"
        return [int(pid) for pid in path.read_text(encoding="utf-8").split()] if path.exists() else []

    def requeued(self) -> list[str]:
        path = self.folder / "requeued"
        return path.read_text(encoding="utf-8").split() if path.exists() else []
