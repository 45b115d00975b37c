"""The variables of a launcher: this process's place among the ranks, and which of them is wrong."""

from __future__ import annotations

import pytest

from common.errors import UserError
from engine.distributed.environment import Place, is_one_of_several, place_of

TWO = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}


@pytest.mark.parametrize("environ", [{}, dict.fromkeys(TWO, ""), {"RANK": "0", "WORLD_SIZE": "1"}], ids=repr)
def test_one_process_also_where_variables_are_empty(environ: dict[str, str]) -> None:
    assert place_of(environ) == Place(rank=0, size=1, local_rank=0)
    assert not is_one_of_several(environ)


def test_one_of_two_ranks() -> None:
    place = place_of(TWO)
    assert (place.rank, place.size, place.local_rank, place.endpoint) == (1, 2, 1, "node0:29500")
    assert is_one_of_several(TWO) and not place.serves and not place.first_on_node
    assert place_of({**TWO, "RANK": "0", "LOCAL_RANK": "0"}).serves
    assert not place_of({**TWO, "RANK": "0", "TORCHELASTIC_USE_AGENT_STORE": "True"}).serves


def test_the_first_rank_of_each_node_downloads() -> None:
    """Rank 8 is the first of the second node. Without LOCAL_RANK nodes are unknown: only rank 0 is first."""
    sixteen = {**TWO, "WORLD_SIZE": "16"}
    assert place_of({**sixteen, "RANK": "8", "LOCAL_RANK": "0"}).first_on_node
    assert not place_of({**sixteen, "RANK": "9", "LOCAL_RANK": "1"}).first_on_node
    first = [place_of({**sixteen, "RANK": rank, "LOCAL_RANK": ""}).first_on_node for rank in "08"]
    assert first == [True, False]


def test_local_rank_of_the_launcher_overrides_the_flag() -> None:
    assert place_of({}, local_rank=3).local_rank == 3
    assert place_of({"LOCAL_RANK": "2"}, local_rank=0).local_rank == 2
    assert place_of({**TWO, "LOCAL_RANK": ""}, local_rank=1).local_rank == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"RANK": "one"}, "RANK is 'one': .* a whole number from 0"),
        ({"RANK": "2"}, "RANK is 2: must be below WORLD_SIZE, which is 2"),
        ({"RANK": "1", "WORLD_SIZE": "1"}, "RANK is 1: must be below WORLD_SIZE, which is 1"),
        ({"RANK": ""}, "WORLD_SIZE is 2, but RANK is not set"),
        ({"WORLD_SIZE": ""}, "RANK is 1, but WORLD_SIZE is not set"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0': .* from 1"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE is '-2'"),
        ({"LOCAL_RANK": "1.5"}, "LOCAL_RANK is '1.5'"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is not set"),
        ({"MASTER_PORT": ""}, "MASTER_PORT is not set"),
        ({"MASTER_PORT": "65536"}, "MASTER_PORT is '65536': .* from 1 to 65535"),
    ],
)
def test_a_wrong_variable_is_named(changed: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        place_of({**TWO, **changed})
    is_one_of_several({**TWO, **changed})  # raises nothing: programs that have refused them end with it
