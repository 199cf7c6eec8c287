"""A run whose steps stop being finite: they are skipped and counted, and it ends with a code.

What a single such step does to the state is tested in `test_step.py`.
"""

import pytest
from support.training_cases import records, run, train_arguments

from moe_jax.cli.shared import exit_codes

#: The first update throws the parameters so far away that the second gradient overflows.
EXPLODING = ("optimizer.learning_rate=1e30", "schedule.warmup_steps=0", "train.max_skipped=3")
SIZES = ("model.num_layers=1", "data.sequence_length=16", "data.source=synthetic")


@pytest.mark.slow
def test_run_that_explodes_skips_counts_says_where_and_stops(tmp_path):
    workdir = tmp_path / "run"
    done = run(train_arguments(workdir, *SIZES, *EXPLODING), tmp_path / "compiled")
    assert done.returncode == exit_codes.DIVERGED, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "moe-jax train: loss or gradient norm was not finite in 3 steps in a row "
        "(train.max_skipped = 3), the last of them step 3 with sequences 48 to 63 of seed 0"
    )
    found = records(workdir)
    assert [record["step"] for record in found] == [1, 2, 3, 4]
    assert [record["skipped"] for record in found] == [0, 1, 1, 1]
    assert [record["skipped_total"] for record in found] == [0, 1, 2, 3]
    # NaN is no JSON: what is not finite is written as null, and nothing else is.
    assert [record["grad_norm"] is None for record in found] == [False, True, True, True]
    assert not list(workdir.glob("checkpoints/*"))
