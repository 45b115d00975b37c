"""Ranks that srun started read Slurm's variables; other launchers are refused instead of many whole runs."""

from __future__ import annotations

import socket

import pytest

from common.errors import UserError
from engine.distributed import launchers
from engine.distributed.launchers import first_host, launcher_variables, require_master_address

TASK = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "2",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_JOB_NODELIST": "n[1-4]",
    "SLURM_STEP_NODELIST": "n[3-4]",
}


@pytest.mark.parametrize("rank", [{}, {"RANK": "", "WORLD_SIZE": "", "MASTER_ADDR": "", "MASTER_PORT": ""}])
def test_a_task_of_srun_is_one_rank(rank: dict[str, str]) -> None:
    found = launcher_variables({**TASK, **rank})
    port = int(found.pop("MASTER_PORT"))
    assert found == {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "n3"}
    assert 20000 <= port < 32000
    others = [
        launcher_variables({**TASK, "SLURM_JOB_ID": "4712"}),
        launcher_variables({**TASK, "SLURM_STEP_ID": "3"}),
    ]
    assert all(int(other["MASTER_PORT"]) != port for other in others)


def test_variables_that_are_set_are_kept() -> None:
    assert launcher_variables({**TASK, "RANK": "0", "WORLD_SIZE": "1"}) == {}
    found = launcher_variables({**TASK, "MASTER_ADDR": "10.0.0.3", "MASTER_PORT": "29500"})
    assert "MASTER_ADDR" not in found and "MASTER_PORT" not in found and found["RANK"] == "3"


def test_one_process_needs_no_variables() -> None:
    batch_script = {name: value for name, value in TASK.items() if not name.startswith("SLURM_STEP")}
    for environ in (
        {},
        batch_script,
        {**TASK, "SLURM_STEP_NUM_TASKS": "1"},
        {"PMI_SIZE": "1", "PMI_RANK": "0"},
    ):
        assert launcher_variables(environ) == {}


@pytest.mark.parametrize("name", ["OMPI_COMM_WORLD", "PMI"])
def test_processes_of_mpi_are_refused(name: str) -> None:
    with pytest.raises(
        UserError, match=rf"{name}_SIZE is 2 but RANK is not set: start the ranks with torchrun"
    ):
        launcher_variables({f"{name}_SIZE": "2", f"{name}_RANK": "1"})


def test_a_number_that_is_none_names_its_variable() -> None:
    with pytest.raises(UserError, match="SLURM_PROCID is 'x': must be a number"):
        launcher_variables({**TASK, "SLURM_PROCID": "x"})


@pytest.mark.parametrize(
    "nodes, first",
    [
        ("n1", "n1"),
        ("n1,n2", "n1"),
        ("n[03-05,9],m1", "n03"),
        ("rack[2,5]-node[07-09]", "rack2-node07"),
        ("gpu-a[1-2].site.org,b", "gpu-a1.site.org"),
    ],
)
def test_the_first_name_of_a_node_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_without_a_node_list_the_address_is_asked_for() -> None:
    with pytest.raises(UserError, match="set MASTER_ADDR"):
        launcher_variables({name: value for name, value in TASK.items() if "NODELIST" not in name})
    without_list = {name: value for name, value in TASK.items() if "NODELIST" not in name}
    assert "MASTER_ADDR" not in launcher_variables({**without_list, "MASTER_ADDR": "n3"})


def test_a_master_without_an_address_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def unknown(name: str, port: None) -> None:
        asked.append(name)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(launchers, "RESOLVE_S", 0.1)
    require_master_address({"WORLD_SIZE": "1", "MASTER_ADDR": "n1"})
    require_master_address({"WORLD_SIZE": "2"})
    assert not asked
    with pytest.raises(UserError, match="MASTER_ADDR is 'n1': this machine finds no address for it .*known"):
        require_master_address({"WORLD_SIZE": "2", "MASTER_ADDR": "n1"})
    assert len(asked) > 1  # a name server may be late
