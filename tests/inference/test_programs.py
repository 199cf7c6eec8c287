"""The config that a decode step runs with."""

import pytest
from engine_cases import EXPERT_8, session

from moe_jax.inference.programs import FREE_ROWS, decoding_config


@pytest.mark.parametrize(
    ("slots", "factor"),
    [
        # Any of the 8 experts may be one of the 2 that every token visits.
        (FREE_ROWS, 8 / 2),
        (2 * FREE_ROWS, 0.75),
    ],
)
def test_one_round_takes_every_routing_while_rows_are_free(slots, factor):
    found = decoding_config(session(*EXPERT_8).config, slots)
    assert found.exchange.capacity_factor == factor
    assert found.sharding.sequence == "whole"


def test_an_expert_group_has_its_own_slots():
    config = session("mesh.data=2", "mesh.expert=4").config
    assert decoding_config(config, 2 * FREE_ROWS).exchange.capacity_factor == 4
