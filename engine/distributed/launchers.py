"""The variables that say which rank this process is, where a launcher other than torchrun started it."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Mapping

from common.errors import UserError, one_line

# Below the ports that systems give to outgoing connections.
FIRST_PORT, PORTS = 20000, 12000
RESOLVE_S = 10.0  # a name server may be late
# MPI launchers: a variable with the number of processes, one with the number of this one.
_MPI = (("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"), ("PMI_SIZE", "PMI_RANK"))


def launcher_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT as far as `environ` lacks them.

    Empty where RANK is set, as by torchrun, and where this process is the only one. Where `srun` started
    several tasks, each task is one rank. Raises `UserError` where MPI started several processes: without
    these variables each of them would do the whole run, into one folder.
    """
    if environ.get("RANK"):
        return {}
    # `srun` sets this one. The batch script itself, in which a program may run alone, does not have it.
    if _number(environ, "SLURM_STEP_NUM_TASKS") > 1:
        wanted = {
            "RANK": str(_number(environ, "SLURM_PROCID")),
            "WORLD_SIZE": str(_number(environ, "SLURM_STEP_NUM_TASKS")),
            "LOCAL_RANK": str(_number(environ, "SLURM_LOCALID")),
        }
        if not environ.get("MASTER_ADDR"):
            nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", "")
            wanted["MASTER_ADDR"] = first_host(nodes)
        if not environ.get("MASTER_PORT"):
            job_and_step = 31 * _number(environ, "SLURM_JOB_ID") + _number(environ, "SLURM_STEP_ID")
            wanted["MASTER_PORT"] = str(FIRST_PORT + job_and_step % PORTS)
        return wanted
    for size, rank in _MPI:
        if _number(environ, size) > 1:
            raise UserError(
                f"{size} is {environ[size]} but RANK is not set: start the ranks with torchrun or srun, or "
                f"set RANK (to {rank}), WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT for each process"
            )
    return {}


def require_master_address(environ: Mapping[str, str]) -> None:
    """Raise `UserError` where MASTER_ADDR of several ranks has no address on this machine.

    torch would try again for half an hour.
    """
    name = environ.get("MASTER_ADDR")
    if not name or _number(environ, "WORLD_SIZE") < 2:
        return
    end = time.monotonic() + RESOLVE_S
    while True:
        try:
            socket.getaddrinfo(name, None)
            return
        except OSError as error:
            if time.monotonic() > end:
                raise UserError(
                    f"MASTER_ADDR is {name!r}: this machine finds no address for it ({one_line(error)}); set "
                    "MASTER_ADDR to a name or address of the first machine that all machines know"
                ) from error
        time.sleep(0.5)


def first_host(nodes: str) -> str:
    """The first name of a node list of Slurm: "n03" of "n[03-05,9],m1"."""
    match = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    if match is None:
        raise UserError(f"SLURM_STEP_NODELIST is {nodes!r}: set MASTER_ADDR to the first node")
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", match[0])


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name) or "0"
    if not text.isascii() or not text.isdigit():
        raise UserError(f"{name} is {text!r}: must be a number")
    return int(text)
