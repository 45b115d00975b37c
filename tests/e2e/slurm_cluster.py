"""A real Slurm of four nodes, all of them this machine, for tests. It needs root, and the daemons installed.

Partitions: `low` is preempted at once, `grace` with notice, by jobs of `high`, all on two nodes; `steady` has
two others, where nothing is preempted.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.processes import free_port

DAEMONS = ("munged", "slurmctld", "slurmd")
COMMANDS = ("sbatch", "srun", "scancel", "scontrol", "squeue", "sinfo")
NODES, CPUS = ("a1", "a2", "b1", "b2"), 16
LIMIT_S = 30
# A requeued job waits until the credential of its last start has expired: two minutes, or 5 s at the least.
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5,socket={folder}/munge/socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=1,sched_min_interval=100000,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
SlurmdTimeout=60
ReturnToService=2
MinJobAge=3600
{nodes}
PartitionName=low Nodes=a1,a2 PriorityTier=1 Default=YES
PartitionName=grace Nodes=a1,a2 PriorityTier=1 GraceTime=60
PartitionName=high Nodes=a1,a2 PriorityTier=9 PreemptMode=OFF
PartitionName=steady Nodes=b1,b2 PriorityTier=1 PreemptMode=OFF
"""


def why_not() -> str | None:
    """Why this machine cannot run the cluster; None if it can."""
    absent = [name for name in (*DAEMONS, *COMMANDS) if find(name) is None]
    if absent:
        return f"needs {', '.join(absent)} (Debian and Ubuntu: apt-get install slurm-wlm munge)"
    return None if os.geteuid() == 0 else "needs root, as Slurm's daemons do"


def find(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


class SlurmCluster:
    """A context manager: the daemons run inside it. `folder` must have a short path and root as its owner."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> SlurmCluster:
        for name in ("munge", "state"):
            (self.folder / name).mkdir(mode=0o755)
        key = self.folder / "munge" / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        host = socket.gethostname().split(".")[0]
        nodes = [
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()} CPUs={CPUS}"
            for name in NODES
        ]
        (self.folder / "slurm.conf").write_text(
            CONFIGURATION.format(host=host, port=free_port(), folder=self.folder, nodes="\n".join(nodes)),
            encoding="utf-8",
        )
        try:
            files = {
                name: f"--{name}-file={self.folder}/munge/{name}" for name in ("key", "log", "pid", "seed")
            }
            self._start(
                "munged", "--foreground", "--force", f"--socket={self.folder}/munge/socket", *files.values()
            )
            self._wait(lambda: (self.folder / "munge" / "socket").exists())
            self._start("slurmctld", "-D", "-c")
            for name in NODES:
                self._start("slurmd", "-D", "-N", name)
            self._wait(lambda: self._idle() == set(NODES))
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.call("scancel", "--user", "root", check=False)
        end = time.monotonic() + LIMIT_S
        while self.call("squeue", "--noheader", check=False).strip() and time.monotonic() < end:
            time.sleep(0.1)
        self._stop()

    def call(self, program: str, *arguments: str, check: bool = True, **variables: str) -> str:
        """What one of Slurm's commands prints."""
        done = subprocess.run(
            [program, *arguments],
            env={**self.environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_S,
        )
        assert not check or done.returncode == 0, f"{program}: {done.stdout}"
        return done.stdout

    def submit(self, *arguments: str, variables: Mapping[str, str] | None = None) -> str:
        """Submit a job from the current folder; returns its number."""
        return self.call("sbatch", "--parsable", *arguments, **(variables or {})).split()[-1]

    def job(self, number: str) -> list[dict[str, str]]:
        """What Slurm says about a job: an entry for each element of an array."""
        text = self.call("scontrol", "show", "job", "--oneliner", number)
        return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in text.splitlines() if line]

    def _idle(self) -> set[str]:
        return set(self.call("sinfo", "-h", "-N", "-t", "idle", "-o", "%N", check=False).split())

    def _start(self, *command: str) -> None:
        program = find(command[0])
        assert program is not None
        with open(self.folder / "daemons.log", "ab") as log:
            self._daemons.append(
                subprocess.Popen([program, *command[1:]], env=self.environment, stdout=log, stderr=log)
            )

    def _wait(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < end, (self.folder / "daemons.log").read_text(encoding="utf-8")
            time.sleep(0.05)

    def _stop(self) -> None:
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(timeout=LIMIT_S)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
