"""What becomes of requests when the queue is full, clients leave or the engine breaks."""

import socket
import threading
import time

import httpx
import openai
import pytest
from support.serving.fake_engine import FakeEngine
from support.serving.served import MODEL, complete, eventually, greedy, serving


class GatedEngine(FakeEngine):
    """Makes no step before its gate is open."""

    def __init__(self, **more):
        super().__init__(**more)
        self.gate = threading.Event()

    def step(self):
        self.gate.wait(30)
        return super().step()


def test_a_full_queue_answers_429_and_serves_the_others():
    engine = GatedEngine(slots=2)
    answers: list[str] = []
    refused: list[openai.RateLimitError] = []
    with serving(engine, queue=2) as server, server.client() as client:

        def ask():
            try:
                answers.append(complete(client, max_tokens=30).choices[0].text)
            except openai.RateLimitError as error:
                refused.append(error)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        eventually(lambda: len(refused) == 4)
        figures = server.figures()
        assert figures["running"] + figures["queue_length"] == 4
        engine.gate.set()
        for thread in threads:
            thread.join()
        assert answers == [greedy("abc", 30)] * 4
        assert refused[0].code == "queue_full"
        assert int(refused[0].response.headers["retry-after"]) >= 1
        assert server.outcomes() == {"completed": 4, "overflow": 4}
        # Room for a request only as a whole.
        with pytest.raises(openai.BadRequestError, match="5 texts"):
            complete(client, n=5)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_slot(stream):
    with serving(FakeEngine(slots=1, context=100_000, delay=0.01), max_tokens=90_000) as server:
        params = {"model": MODEL, "prompt": "abc", "max_tokens": 90_000, "stream": stream}
        url = f"{server.url}/v1/completions"
        if stream:
            with httpx.stream("POST", url, json=params) as answer:
                lines = answer.iter_lines()
                assert next(lines).startswith("data: ")
                assert server.figures()["running"] == 1
        else:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(url, json=params, timeout=0.3)
        eventually(lambda: server.engine.idle == 1)
        eventually(lambda: server.outcomes() == {"disconnected": 1})
        assert (server.figures()["running"], server.figures()["queue_length"]) == (0, 0)
        with server.client() as client:
            assert complete(client).choices[0].text == greedy("abc", 8)


def test_a_client_that_goes_away_while_it_asks_is_counted_and_nothing_else(caplog):
    with serving() as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
            head += "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
            connection.sendall(head.encode())
        eventually(lambda: server.outcomes() == {"disconnected": 1})
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_client_that_goes_away_while_it_waits_never_starts():
    engine = FakeEngine(slots=1, context=100_000, delay=0.01)
    with serving(engine, max_tokens=90_000) as server, server.client() as client:
        running = complete(client, max_tokens=90_000, stream=True)
        next(running)
        body = {"model": MODEL, "prompt": "x", "max_tokens": 40}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/v1/completions", json=body, timeout=0.2)
        eventually(lambda: server.figures()["queue_length"] == 0)
        assert server.figures()["running"] == 1
        running.close()
    assert [call for call in engine.calls if call[0] == "start"] == [("start", 1)]


def test_an_engine_that_fails_fails_its_requests_and_turns_health_red():
    engine = FakeEngine(slots=2, context=100_000, delay=0.01)
    with serving(engine, max_tokens=90_000) as server, server.client() as client:
        assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
        stream = complete(client, max_tokens=90_000, stream=True)
        next(stream)
        results = []

        def ask():
            with pytest.raises(openai.InternalServerError) as caught:
                complete(client, max_tokens=90_000)
            results.append(caught.value)

        waiting = [threading.Thread(target=ask) for _ in range(3)]
        for thread in waiting:
            thread.start()
        eventually(lambda: server.engine_thread.in_flight == 4)
        engine.failure = RuntimeError("device lost")
        with pytest.raises(openai.APIError, match="engine has failed"):
            list(stream)
        for thread in waiting:
            thread.join(10)
        assert len(results) == 3
        with pytest.raises(openai.InternalServerError, match="engine has failed"):
            complete(client)
        # What broke is not for clients.
        assert "device lost" not in str(results[0])
        health = httpx.get(f"{server.url}/health")
        assert (health.status_code, health.json()) == (503, {"status": "failed"})
        eventually(lambda: server.outcomes() == {"failed": 5})
        assert (server.figures()["running"], server.figures()["queue_length"]) == (0, 0)
    assert server.ends == [False]


def test_an_engine_that_does_not_answer_turns_health_red():
    engine = FakeEngine(delay=1.0)
    with serving(engine, stalled_after=0.2) as server, server.client() as client:
        stream = complete(client, max_tokens=3, stream=True)
        eventually(lambda: httpx.get(f"{server.url}/health").json() == {"status": "stalled"})
        engine.delay = 0
        assert len(list(stream)) == 3
        eventually(lambda: httpx.get(f"{server.url}/health").json() == {"status": "ok"})


def test_a_server_that_nobody_asks_is_not_stuck():
    with serving(stalled_after=0.02) as server, server.client() as client:
        for _ in range(2):
            time.sleep(0.1)
            assert server.engine_thread.state == "ok"
            complete(client)
            eventually(lambda: not server.engine_thread.in_flight)
