"""Errors of checkpoints are the user's, and a damaged one is told from one that does not fit."""

import pytest
from support.checkpoint_cases import INFO, abstract, data_file, flip_bit, make_state, mesh_of

from moe_jax.checkpoint import CheckpointError, Checkpoints
from moe_jax.checkpoint.errors import DamagedCheckpointError
from moe_jax.errors import UserError


def test_damage_is_one_kind_of_trouble_with_a_checkpoint():
    assert issubclass(DamagedCheckpointError, CheckpointError)
    assert issubclass(CheckpointError, UserError)


def test_damage_is_raised_as_damage_and_misfit_is_not(tmp_path):
    state = make_state(1, mesh_of(8))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, INFO)
    wanted = abstract(state)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(CheckpointError) as misfit:
        checkpoints.restore({"params": wanted["params"]}, step=1)
    assert not isinstance(misfit.value, DamagedCheckpointError)
    flip_bit(data_file(tmp_path / "00000001"))
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(DamagedCheckpointError):
        checkpoints.restore(wanted, step=1)
