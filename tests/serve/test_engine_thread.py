"""The thread that runs the batcher: what it accepts, delivers, cancels and says of itself."""

import asyncio
import threading
from contextlib import contextmanager

import pytest
from support.serving.fake_engine import FakeEngine, alone
from support.serving.served import BYTES, eventually

from moe_jax.inference.batcher import Batcher
from moe_jax.inference.contract import GenerationRequest
from moe_jax.inference.sampling_options import SamplingOptions
from moe_jax.serve.engine_thread import EngineThread
from moe_jax.serve.errors import ApiError
from moe_jax.serve.metrics import Metrics

GREEDY = SamplingOptions(temperature=0)


class GatedEngine(FakeEngine):
    """Makes no step before its gate is open."""

    def __init__(self, **more):
        super().__init__(**more)
        self.gate = threading.Event()

    def step(self):
        self.gate.wait(10)
        return super().step()


def request(text="abc", count=4):
    return GenerationRequest(BYTES.encode(text), GREEDY, max_tokens=count)


@contextmanager
def running(engine, *, queue=4, stalled_after=30.0):
    thread = EngineThread(
        Batcher(engine, BYTES), queue=queue, stalled_after=stalled_after, metrics=Metrics()
    )
    thread.start()
    try:
        yield thread
    finally:
        if isinstance(engine, GatedEngine):
            engine.gate.set()
        assert thread.close(10)


async def collect(ticket):
    texts: dict[int, list[int]] = {}
    finishes: dict[int, str] = {}
    async for index, event in ticket.events():
        texts.setdefault(index, []).extend(event.tokens)
        finishes[index] = event.finish
    return texts, finishes


def refusal(thread, *requests):
    with pytest.raises(ApiError) as caught:
        thread.submit(requests)
    return caught.value


def test_texts_that_come_together_are_answered_each_by_its_own_place():
    async def run():
        with running(FakeEngine(slots=2)) as thread:
            ticket = thread.submit([request("abc"), request("de", 2), request("f", 6)])
            texts, finishes = await asyncio.wait_for(collect(ticket), 10)
            eventually(lambda: not thread.in_flight)
        return texts, finishes

    texts, finishes = asyncio.run(run())
    want = [("abc", 4), ("de", 2), ("f", 6)]
    assert texts == {i: alone(BYTES.encode(t), n, GREEDY) for i, (t, n) in enumerate(want)}
    assert set(finishes.values()) == {"length"}


def test_a_request_is_taken_whole_or_not_at_all():
    async def run():
        with running(engine := GatedEngine(slots=1), queue=1) as thread:
            assert thread.room == 2
            refused = refusal(thread, *[request()] * 3)
            assert (thread.in_flight, refused.status) == (0, 429)
            first = thread.submit([request()])
            refused = refusal(thread, request(), request())
            assert (refused.status, refused.code) == (429, "queue_full")
            assert int(refused.headers["Retry-After"]) >= 1
            second = thread.submit([request()])
            eventually(lambda: (thread.running, thread.waiting) == (1, 1))
            engine.gate.set()
            await asyncio.wait_for(asyncio.gather(collect(first), collect(second)), 10)

    asyncio.run(run())


def test_who_cancels_frees_slot_and_queue():
    async def run():
        with running(engine := FakeEngine(slots=1, context=100_000, delay=0.001)) as thread:
            long, waits = (thread.submit([request(count=90_000)]) for _ in range(2))
            eventually(lambda: thread.running == 1)
            waits.cancel()
            eventually(lambda: thread.in_flight == 1)
            long.cancel()
            eventually(lambda: engine.idle == 1 and not thread.in_flight)
            # Twice, or after the end, is no mistake.
            long.cancel()
            _, finishes = await asyncio.wait_for(collect(long), 10)
            assert finishes == {0: "cancelled"}
        starts = [count for name, count in engine.calls if name == "start"]
        assert starts == [1]

    asyncio.run(run())


def test_a_draining_thread_ends_what_it_has_and_takes_nothing_more():
    async def run():
        with running(engine := GatedEngine()) as thread:
            ticket = thread.submit([request()])
            thread.drain()
            assert thread.state == "closing"
            assert refusal(thread, request()).code == "closing"
            engine.gate.set()
            texts, _ = await asyncio.wait_for(collect(ticket), 10)
            assert len(texts[0]) == 4

    asyncio.run(run())


def test_a_broken_engine_tells_all_who_wait_and_all_who_come(caplog):
    async def run():
        engine = GatedEngine(slots=1)
        with running(engine) as thread:
            tickets = [thread.submit([request()]) for _ in range(2)]
            engine.failure = RuntimeError("device lost")
            engine.gate.set()
            for ticket in tickets:
                with pytest.raises(ApiError, match="engine has failed") as caught:
                    await asyncio.wait_for(collect(ticket), 10)
                assert caught.value.status == 500
            assert thread.state == "failed"
            assert refusal(thread, request()).status == 500
            assert (thread.running, thread.waiting, thread.in_flight) == (0, 0, 0)

    asyncio.run(run())
    assert "the engine failed" in caplog.text
    assert "device lost" in caplog.text


def test_an_engine_without_a_step_for_too_long_is_stalled_but_not_an_idle_one():
    async def run():
        with running(engine := GatedEngine(), stalled_after=0.05) as thread:
            await asyncio.sleep(0.1)
            assert thread.state == "ok"
            ticket = thread.submit([request()])
            eventually(lambda: thread.state == "stalled")
            engine.gate.set()
            await asyncio.wait_for(collect(ticket), 10)
            eventually(lambda: thread.state == "ok")

    asyncio.run(run())


def test_a_stuck_engine_is_left_behind(caplog):
    async def run():
        engine = GatedEngine()
        thread = EngineThread(Batcher(engine, BYTES), queue=1, stalled_after=30, metrics=Metrics())
        thread.start()
        ticket = thread.submit([request()])
        eventually(lambda: ("start", 1) in engine.calls)
        assert not thread.close(0.05)
        with pytest.raises(ApiError, match="shutting down"):
            await asyncio.wait_for(collect(ticket), 10)
        engine.gate.set()
        assert thread.close(10)

    asyncio.run(run())
    assert "the engine has not answered for 0.05 s: it is left behind" in caplog.text


def test_tokens_and_times_are_counted():
    async def run():
        with running(FakeEngine()) as thread:
            metrics = thread._metrics
            await asyncio.wait_for(collect(thread.submit([request("abc", 5), request("d", 3)])), 10)
        return metrics.text().decode()

    text = asyncio.run(run())
    for name, value in (
        ("prompt_tokens_total", 4),
        ("generated_tokens_total", 8),
        ("time_to_first_token_seconds_count", 2),
        ("time_per_token_seconds_count", 6),
    ):
        assert f"moe_jax_{name} {value}.0" in text, name
