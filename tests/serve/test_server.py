"""How a server begins and ends."""

import logging
import os
import signal
import subprocess
import sys
import threading

import httpx
import openai
import pytest
from support.places import ROOT, TESTS, WORKERS
from support.serving.fake_engine import FakeEngine
from support.serving.served import complete, eventually, greedy, serving

from moe_jax.serve import server as server_module
from moe_jax.serve.server import listen


def test_a_port_in_use_is_refused_by_name():
    with listen("127.0.0.1", 0) as bound:
        bound.listen()
        port = bound.getsockname()[1]
        with pytest.raises(ValueError, match=rf"127\.0\.0\.1:{port} .*--port"):
            listen("127.0.0.1", port)
    with pytest.raises(ValueError, match=r"cannot listen on 192\.0\.2\.1:0"):
        listen("192.0.2.1", 0)


def ask(client, results, **params):
    """An answer's text or error, from a thread of its own."""

    def run():
        try:
            results.append(complete(client, **params).choices[0].text)
        except openai.APIError as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.slow
def test_texts_under_way_and_waiting_are_finished_before_the_end(caplog):
    results = []
    with serving(FakeEngine(slots=1, delay=0.05)) as server, server.client() as client:
        stream = complete(client, max_tokens=40, stream=True)
        text = next(stream).choices[0].text
        waiting = ask(client, results, prompt="xyz", max_tokens=10)
        eventually(lambda: server.engine_thread.in_flight == 2)
        server.stop()
        eventually(lambda: server.engine_thread.state == "closing")
        text += "".join(part.choices[0].text for part in stream)
        assert text == greedy("abc", 40)
        waiting.join(10)
        assert results == [greedy("xyz", 10)]
        server.thread.join(10)
        assert not server.thread.is_alive()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/health")
    assert "asked to end: 2 texts have 10 s to finish" in caplog.text


@pytest.mark.parametrize("twice", [False, True])
def test_what_takes_too_long_is_cancelled_and_told_so(twice, caplog):
    engine = FakeEngine(slots=1, context=100_000, delay=0.01)
    results = []
    grace = 60 if twice else 0.3
    with serving(engine, grace=grace, max_tokens=90_000) as server, server.client() as client:
        stream = complete(client, max_tokens=90_000, stream=True)
        next(stream)
        waiting = ask(client, results, max_tokens=90_000)
        eventually(lambda: server.engine_thread.in_flight == 2)
        server.stop()
        if twice:
            server.stop()
        with pytest.raises(openai.APIError, match="shutting down"):
            list(stream)
        waiting.join(10)
        assert results[0].status_code == 503
        server.thread.join(10)
        assert not server.thread.is_alive()
    assert engine.idle == 1
    assert ("cancelling 2 texts" in caplog.text) == twice


def test_an_engine_that_never_answers_does_not_keep_the_server(caplog, monkeypatch):
    monkeypatch.setattr(server_module, "FAREWELL", 0.3)
    engine = FakeEngine(delay=2.0)
    with serving(engine, grace=0) as server, server.client() as client:
        results = []
        asking = ask(client, results, max_tokens=2)
        # In the call, and not only accepted: a text that waits is cancelled without the engine.
        eventually(lambda: engine.calls)
        server.stop()
        asking.join(10)
        assert results[0].status_code == 503
        server.thread.join(10)
        assert not server.thread.is_alive()
        assert "the engine has not answered for 0.3 s" in caplog.text
        assert server.ends == [False]


@pytest.mark.slow
@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_answers_finish_and_ends_the_process_in_order(which):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{TESTS}:{ROOT}"}
    command = [sys.executable, str(WORKERS / "server_worker.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            url = process.stdout.readline().strip()
            with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
                stream = complete(client, max_tokens=40, stream=True)
                text = next(stream).choices[0].text
                process.send_signal(which)
                text += "".join(part.choices[0].text for part in stream)
            assert text == greedy("abc", 40)
            assert process.wait(20) == 0
            assert process.stdout.read() == "ended True\n"
        finally:
            process.kill()


def test_the_servers_own_log_is_quiet_about_requests(caplog):
    caplog.set_level(logging.INFO)
    with serving() as server, server.client() as client:
        complete(client, prompt="secret")
    assert "secret" not in caplog.text
