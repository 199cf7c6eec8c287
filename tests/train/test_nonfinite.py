"""Steps that are not finite: skipped by all, counted, and too many in a row end the run."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from training_cases import (
    ONE_DEVICE,
    records,
    run,
    session_on_first_devices,
    small_config,
    train_arguments,
)

from moe_jax.checkpoint.tree import flatten
from moe_jax.cli import exit_codes
from moe_jax.data import make_loaders
from moe_jax.train.loop import NonFiniteError, train
from moe_jax.train.state import init_state

#: The first update throws the parameters so far away that the second gradient overflows.
EXPLODING = ("optimizer.learning_rate=1e30", "schedule.warmup_steps=0", "train.max_skipped=3")
SIZES = ("model.num_layers=1", "data.sequence_length=16", "data.source=synthetic")


def test_run_that_explodes_skips_counts_and_stops(tmp_path):
    config = small_config(*ONE_DEVICE, *SIZES, *EXPLODING)
    message = (
        r"not finite in 3 steps in a row \(train\.max_skipped = 3\), the last of them step 3 "
        r"with sequences 48 to 63 of seed 0"
    )
    with pytest.raises(NonFiniteError, match=message):
        train(session_on_first_devices(config), tmp_path, "none")
    found = records(tmp_path)
    assert [record["skipped"] for record in found] == [0, 1, 1, 1]
    assert [record["skipped_total"] for record in found] == [0, 1, 2, 3]
    assert [record["step"] for record in found] == [1, 2, 3, 4]
    # NaN is no JSON: what is not finite is written as null, and nothing else is.
    assert [record["grad_norm"] is None for record in found] == [False, True, True, True]
    assert not list(tmp_path.glob("checkpoints/*"))


def test_one_bad_batch_changes_nothing_but_the_counters():
    session = session_on_first_devices(small_config(*ONE_DEVICE, *SIZES))
    steps = session.steps
    loader = make_loaders(session.config, session.batch_sharding()).train
    step = steps.jit_train()
    state, _ = step(init_state(steps.skeleton, steps.optimizer, session.mesh), loader(0))
    before = flatten(jax.device_get(state))

    bad = dataclasses.replace(loader(1), weights=loader(1).weights.at[0, 0, 0, 0].set(np.nan))
    state, metrics = step(state, bad)
    after = flatten(jax.device_get(state))
    assert metrics.skipped == 1
    changed = {path for path in before if before[path].tobytes() != after[path].tobytes()}
    assert changed == {"step", "skipped", "skipped_in_a_row"}
    assert [int(after[path]) for path in sorted(changed)] == [1, 1, 2]

    state, metrics = step(state, loader(2))
    assert metrics.skipped == 0
    assert [int(state.step), int(state.skipped), int(state.skipped_in_a_row)] == [3, 1, 0]
    later = flatten(jax.device_get(state))
    assert {path for path in after if after[path].tobytes() != later[path].tobytes()} >= {
        path for path in after if path.startswith("params/")
    }


@pytest.mark.slow
def test_command_says_where_and_exits_with_its_code(tmp_path):
    arguments = train_arguments(tmp_path / "run", *SIZES, *EXPLODING)
    done = run(arguments, tmp_path / "compiled")
    assert done.returncode == exit_codes.DIVERGED, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("moe-jax train: loss or gradient norm was not finite in 3 steps")
    assert "step 3 with sequences 48 to 63" in last
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["skipped_total"] == 3
