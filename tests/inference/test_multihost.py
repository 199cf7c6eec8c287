import json
import os
import socket
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
from support.places import ROOT, TESTS, WORKERS
from support.serving.fake_engine import FakeEngine, alone

from moe_jax.data.tokenizers import ByteTokenizer
from moe_jax.inference import multihost
from moe_jax.inference.batcher import Batcher
from moe_jax.inference.contract import GenerationRequest, Prompt
from moe_jax.inference.sampling_options import SamplingOptions


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """What each of two processes printed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{TESTS}:{ROOT}"}
    log = tmp_path_factory.mktemp("follow") / "stderr"
    with log.open("w") as errors:
        workers = [
            subprocess.Popen(
                [sys.executable, str(WORKERS / "multihost_worker.py"), str(index), str(port)],
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
    multihost.Channel(store, "c").send({"a": 1})
    receiver = multihost.Channel(store, "c")
    assert receiver.receive() == {"a": 1}
    assert store.waits == 2
    with pytest.raises(jax.errors.JaxRuntimeError, match="coordinator is gone"):
        receiver.receive()


class SharedStore(OneStore):
    """A store of two threads; a meeting that one of them misses breaks."""

    def __init__(self):
        super().__init__()
        self._changed = threading.Condition()
        self._meeting = threading.Barrier(2)
        #: Keys at each meeting, by its name as each thread calls it.
        self.meetings: list[tuple[str, set[str]]] = []

    def key_value_set(self, key, value):
        with self._changed:
            super().key_value_set(key, value)
            self._changed.notify_all()

    def blocking_key_value_get(self, key, timeout_ms):
        with self._changed:
            if not self._changed.wait_for(lambda: key in self.values, 10):
                raise jax.errors.JaxRuntimeError("UNAVAILABLE: nobody sends")
            return self.values[key]

    def wait_at_barrier(self, name, timeout_ms):
        self.meetings.append((name, set(self.values)))
        self._meeting.wait(10)


class RecordingEngine(FakeEngine):
    """Remembers which slot got which token."""

    def __init__(self, **more):
        super().__init__(**more)
        self.tokens: list[tuple[int, int]] = []

    def _next(self, slot):
        token = super()._next(slot)
        self.tokens.append((token.slot, token.id))
        return token


def prompts(*texts):
    return [Prompt(ByteTokenizer().encode(text), SamplingOptions(seed=5)) for text in texts]


def followed(store, **more):
    """An engine that has repeated all calls in a store."""
    engine = RecordingEngine(**more)
    multihost.follow(engine, multihost.Channel(store, "c"))
    return engine


@pytest.mark.parametrize("then", ["start", "step", "stop"])
def test_all_slots_released_since_the_last_call_are_free_before_the_next(then):
    store = SharedStore()
    leader = RecordingEngine(slots=4)
    leading = multihost.BroadcastingEngine(leader, multihost.Channel(store, "c"))
    leading.start(prompts("a", "bc", "d", "ef"))
    leading.release([0])
    leading.release([3, 1])
    if then == "start":
        leading.start(prompts("new", "texts", "here"))
    elif then == "step":
        leading.step()
    leading.stop()
    follower = followed(store, slots=4)
    assert follower.tokens == leader.tokens
    assert follower.idle == leader.idle == (0 if then == "start" else 3)


def test_every_option_reaches_those_who_follow():
    options = SamplingOptions(
        temperature=0.5,
        top_k=3,
        top_p=0.75,
        min_p=0.25,
        repetition_penalty=1.5,
        frequency_penalty=-0.5,
        presence_penalty=2.0,
        logit_bias={5: -100.0, 7: 0.5},
        top_logprobs=4,
        seed=2**64 - 1,
    )
    default = vars(SamplingOptions())
    assert all(value != default[name] for name, value in vars(options).items())
    told = []
    store = SharedStore()
    leading = multihost.BroadcastingEngine(FakeEngine(), multihost.Channel(store, "c"))
    leading.start([Prompt(ByteTokenizer().encode("a"), options)])
    leading.stop()
    followed(store, following=lambda tokens, sampling: told.append(sampling) or 97)
    assert told == [options]


def test_slots_are_released_once():
    store = SharedStore()
    leading = multihost.BroadcastingEngine(FakeEngine(slots=2), multihost.Channel(store, "c"))
    leading.start(prompts("a", "b"))
    leading.release([1])
    leading.step()
    leading.start(prompts("c"))
    leading.step()
    leading.stop()
    follower = followed(store, slots=2)
    assert follower.idle == leading.idle == 0
    assert [name for name, _ in follower.calls].count("release") == 1


def test_leader_and_follower_hold_the_same_slots_while_texts_come_end_and_are_cancelled(
    monkeypatch,
):
    monkeypatch.setattr(multihost, "MEET_AFTER", 4)
    store = SharedStore()
    leader, follower = (RecordingEngine(slots=3, context=64) for _ in range(2))
    channel = multihost.Channel(store, "c")
    thread = threading.Thread(target=multihost.follow, args=(follower, channel), daemon=True)
    thread.start()
    leading = multihost.BroadcastingEngine(leader, multihost.Channel(store, "c"))
    batcher = Batcher(leading, ByteTokenizer())
    rng = np.random.default_rng(0)
    for _ in range(30):
        text = ByteTokenizer().encode("q" * rng.integers(1, 20))
        count = int(rng.integers(1, 8))
        number = batcher.submit(GenerationRequest(text, SamplingOptions(seed=2), max_tokens=count))
        batcher.advance()
        # Sometimes while it runs, several between two calls, and right before a start.
        for cancelled in rng.integers(1, number + 1, 3):
            batcher.cancel(int(cancelled))
    while batcher.busy:
        batcher.advance()
    leading.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert follower.tokens == leader.tokens
    assert follower.idle == leader.idle == 3
    calls = sum(name != "release" for name, _ in leader.calls) + 1
    assert calls > 16


def test_calls_are_deleted_after_all_have_met_and_all_of_them(monkeypatch):
    monkeypatch.setattr(multihost, "MEET_AFTER", 4)
    store = SharedStore()
    receiver = multihost.Channel(store, "c")
    got: list[int] = []

    def receive():
        got.extend(receiver.receive() for _ in range(10))

    thread = threading.Thread(target=receive, daemon=True)
    thread.start()
    sender = multihost.Channel(store, "c")
    for index in range(10):
        sender.send(index)
    thread.join(10)
    assert got == list(range(10))
    assert set(store.values) == {"c/8", "c/9"}
    # Each meeting has one name in both, which is used once, and finds its calls still there.
    names = [name for name, _ in store.meetings]
    assert sorted(names) == ["c/met 4", "c/met 4", "c/met 8", "c/met 8"]
    assert [{"c/0", "c/3"} <= keys for _, keys in store.meetings[:2]] == [True, True]
    assert [{"c/4", "c/7"} <= keys for _, keys in store.meetings[2:]] == [True, True]


def test_a_follower_raises_what_its_engine_raises():
    store = OneStore()
    channel = multihost.Channel(store, "c")
    channel.send([[], "start", []])
    with pytest.raises(ValueError, match="0 prompts"):
        multihost.follow(FakeEngine(), multihost.Channel(store, "c"))


def test_a_process_without_a_job_is_told_so():
    with pytest.raises(ValueError, match="this process is alone"):
        multihost.job_store()
