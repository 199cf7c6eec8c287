"""A run is looked at by samples, timed by its call, and JAX's and torch's look alike."""

import jax.numpy as jnp
import numpy as np
import torch

from moe_jax.bench.rivals.trial import JaxTrial, TorchTrial

NUMBERS = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_samples_are_the_same_in_both_frameworks():
    ours = JaxTrial(lambda: {"y": jnp.asarray(NUMBERS)}).values()
    theirs = TorchTrial(lambda: {"y": torch.tensor(NUMBERS.T.copy()).t()}).values()
    np.testing.assert_array_equal(ours["y"], theirs["y"])
    assert ours["y"].size == NUMBERS.size


def test_what_is_looked_at_may_be_other_than_a_call():
    run = JaxTrial(lambda: {"y": jnp.zeros(1)}, checked=lambda: {"z": jnp.ones(1)})
    assert list(run.values()) == ["z"]


def test_every_run_is_timed_and_knows_its_device():
    for run in (JaxTrial(lambda: {"y": jnp.zeros(1)}), TorchTrial(lambda: {"y": torch.zeros(1)})):
        assert run.time(2).repeats == 2
        assert (run.device(), run.peak_bytes(), run.counts()) == ("cpu", None, {})
