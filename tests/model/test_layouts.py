"""Every layout computes what one device does: logits, losses, every gradient, and the counts."""

import os
import subprocess
import sys

import numpy as np
import pytest
from support.layout_cases import DIVISIBLE, ON_8, ON_16
from support.model_cases import Outcome, assert_same_outcome, run


def reference(model: tuple[str, ...]) -> Outcome:
    return run(*DIVISIBLE, *model)


def assert_layout_changes_nothing(model: tuple[str, ...], layout: tuple[str, ...]) -> None:
    got, want = run(*DIVISIBLE, *model, *layout), reference(model)
    assert_same_outcome(got, want)
    assert got.stats is not None
    assert want.stats is not None
    np.testing.assert_array_equal(got.stats.exchange.load_e, want.stats.exchange.load_e)
    for name in ("tokens", "sequences", "z", "sequence_loss"):
        counted, wanted = (getattr(o.stats.balance, name) for o in (got, want))
        np.testing.assert_allclose(counted, wanted, rtol=1e-5)
    np.testing.assert_array_equal(got.stats.exchange.rows_dropped, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_8)
def test_on_8_devices(name):
    assert_layout_changes_nothing(*ON_8[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n, (_, layout) in ON_8.items() if "0.75" in str(layout)])
def test_rounds_did_overflow(name):
    model, layout = ON_8[name]
    stats = run(*DIVISIBLE, *model, *layout).stats
    assert stats is not None
    assert (stats.exchange.overflow_rounds > 0).all()


@pytest.mark.slow
def test_on_16_devices():
    """In a process of its own: this one has 8."""
    # What imports the cases here.
    paths = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, __file__],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=paths,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:-1] == list(ON_16)


if __name__ == "__main__":
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 16)
    for case in ON_16:
        assert_layout_changes_nothing(*ON_16[case])
        print(case, flush=True)
