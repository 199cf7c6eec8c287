import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from fake_engine import FakeEngine, alone

from moe_jax.data.tokenizers import ByteTokenizer
from moe_jax.inference.sampling import SamplingOptions
from moe_jax.serve import follow

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """What each of two processes printed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = os.pathsep.join([str(HERE), str(HERE.parent / "inference")])
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    log = tmp_path_factory.mktemp("follow") / "stderr"
    with log.open("w") as errors:
        workers = [
            subprocess.Popen(
                [sys.executable, str(HERE / "follow_worker.py"), str(index), str(port)],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )
            for index in (0, 1)
        ]
        try:
            said = [worker.communicate(timeout=120)[0] for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], log.read_text()
    results = [
        line.split("RESULT")[1] for text in said for line in text.splitlines() if "RESULT" in line
    ]
    return list(map(json.loads, results))


@pytest.mark.slow
def test_the_other_process_makes_the_same_calls_and_gets_the_same_tokens(processes):
    leader, follower = processes
    assert len(leader["tokens"]) == 4 * 9 + 4 * 10
    assert follower["tokens"] == leader["tokens"]
    assert follower["idle"] == leader["idle"] == 3


@pytest.mark.slow
def test_answers_over_two_processes_are_those_of_each_request_alone(processes):
    sampling = SamplingOptions(temperature=0.5, seed=3)
    texts = ("abc", "hello", "xy", "q" * 20)
    wanted = {
        str(4 * round_ + i + 1): alone(ByteTokenizer().encode(text), 9 + round_, sampling)
        for round_ in range(2)
        for i, text in enumerate(texts)
    }
    assert processes[0]["answers"] == wanted


@pytest.mark.slow
def test_old_calls_are_deleted_from_the_store(processes):
    calls = sum(name != "release" for name, _ in processes[0]["calls"]) + 1
    assert calls > 16
    assert processes[0]["left"] == calls % 8


class OneStore:
    """A store within one process."""

    def __init__(self):
        self.values: dict[str, str] = {}
        self.waits = 0

    def key_value_set(self, key, value):
        assert key not in self.values
        self.values[key] = value

    def blocking_key_value_get(self, key, timeout_ms):
        if key not in self.values:
            raise jax.errors.JaxRuntimeError("UNAVAILABLE: the coordinator is gone")
        self.waits += 1
        if self.waits % 2:
            raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: timed out")
        return self.values[key]

    def key_value_delete(self, key):
        del self.values[key]

    def wait_at_barrier(self, name, timeout_ms):
        raise AssertionError("alone at the barrier")


def test_waiting_begins_anew_after_a_timeout_and_ends_when_process_0_is_gone():
    store = OneStore()
    follow.Channel(store, "c").send({"a": 1})
    receiver = follow.Channel(store, "c")
    assert receiver.receive() == {"a": 1}
    assert store.waits == 2
    with pytest.raises(jax.errors.JaxRuntimeError, match="coordinator is gone"):
        receiver.receive()


def test_a_follower_raises_what_its_engine_raises():
    store = OneStore()
    channel = follow.Channel(store, "c")
    channel.send([[], "start", []])
    with pytest.raises(ValueError, match="0 prompts"):
        follow.follow(FakeEngine(), follow.Channel(store, "c"))


def test_a_process_without_a_job_is_told_so():
    with pytest.raises(ValueError, match="this process is alone"):
        follow.job_store()
