"""Facts that processes share, and failures that all of them raise. Real jobs: `test_saving.py`."""

import json

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from moe_jax.checkpoint import agree
from moe_jax.checkpoint.errors import CheckpointError


@pytest.fixture
def two(monkeypatch):
    """Makes this process one of two; gives what the other says, to be filled, and our index."""
    other = {"fact": None, "index": 0}

    def process_allgather(array):
        theirs = np.frombuffer(json.dumps(other["fact"]).encode(), np.uint8)
        if np.ndim(array) == 0:
            pair = [np.int32(array), np.int32(len(theirs))]
        else:
            padded = np.zeros_like(array)
            padded[: len(theirs)] = theirs
            pair = [array, padded]
        return np.stack(pair if other["index"] == 0 else pair[::-1])

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: other["index"])
    monkeypatch.setattr(multihost_utils, "process_allgather", process_allgather)
    return other


def test_one_process_agrees_with_itself():
    fact = {"a": [1, None, "straße"]}
    assert agree.gather(fact) == [fact]
    assert agree.from_primary(fact) == fact
    assert agree.is_primary()


def test_facts_of_different_lengths_come_in_process_order(two):
    two["fact"] = ["a much longer fact than ours", 2]
    assert agree.gather("ours") == ["ours", two["fact"]]


def test_the_primary_is_process_0(two):
    two.update(fact="theirs", index=1)
    assert not agree.is_primary()
    assert agree.from_primary("ours") == "theirs"


def test_what_fails_in_the_primary_is_raised_with_its_cause():
    def fail():
        raise OSError("No space left on device")

    with pytest.raises(CheckpointError, match="No space left") as raised:
        agree.primary_does(fail)
    assert isinstance(raised.value.__cause__, OSError)


def test_the_others_raise_what_failed_in_the_primary(two):
    two.update(fact="disk full", index=1)
    with pytest.raises(CheckpointError, match="disk full"):
        agree.primary_does(lambda: pytest.fail("only process 0 acts"))


def test_defects_are_not_dressed_as_failures_of_the_disk():
    with pytest.raises(ZeroDivisionError):
        agree.primary_does(lambda: 1 / 0)
