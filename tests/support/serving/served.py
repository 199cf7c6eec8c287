"""A real server on a loopback port, in a thread, over any engine. No tests here."""

import asyncio
import dataclasses
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import openai
from support.serving.fake_engine import FakeEngine, Next, alone, hashed

from moe_jax.data.tokenizers import ByteTokenizer, Tokenizer
from moe_jax.errors import UserError
from moe_jax.inference.sampling_options import SamplingOptions
from moe_jax.serve.assemble import Settings, make_server
from moe_jax.serve.engine_thread import EngineThread
from moe_jax.serve.server import listen

MODEL = "tiny/model"
USER = {"role": "user", "content": "hello"}


def render(messages: Sequence[dict[str, str]]) -> str:
    if messages[0]["role"] == "assistant":
        raise UserError("the first message must not be the assistant's")
    return "".join(f"<{m['role']}>{m['content']}" for m in messages) + "<assistant>"


def greedy(prompt: str, count: int, following: Next = hashed) -> str:
    """What `prompt` must be continued with."""
    tokens = alone(BYTES.encode(prompt), count, SamplingOptions(temperature=0), following)
    return BYTES.decode(tokens)


SETTINGS = Settings(
    queue=128, max_tokens=100, max_body=1 << 16, api_key=None, grace=10, stalled_after=30
)


class ChattingBytes(ByteTokenizer):
    """Bytes with a chat template."""

    def encode_chat(self, messages, **variables):
        return self.encode(render(messages))


BYTES = ChattingBytes()


@dataclass
class Running:
    """A server that runs."""

    engine: FakeEngine
    engine_thread: EngineThread
    url: str
    stop: Callable[[], None]
    thread: threading.Thread
    #: What the server said of its end, once it has ended.
    ends: list[bool]

    def client(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=30)

    def post(self, path: str, **more) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", timeout=30, **more)

    def figures(self) -> dict[str, float]:
        """Prometheus' figures by name and labels."""
        text = httpx.get(f"{self.url}/metrics").text
        return {
            name.removeprefix("moe_jax_"): float(value)
            for name, value in re.findall(r"^(moe_jax_\S+) (\S+)$", text, re.MULTILINE)
        }

    def outcomes(self) -> dict[str, int]:
        """HTTP requests by outcome, of those that there were."""
        found = {
            re.sub(r'.*outcome="(\w+)".*', r"\1", name): int(value)
            for name, value in self.figures().items()
            if name.startswith("requests_total")
        }
        return found


def eventually(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)


@contextmanager
def serving(engine=None, *, tokenizer: Tokenizer = BYTES, **changes) -> Iterator[Running]:
    """Serves `engine` with some settings changed; at the end no slot, text or thread is left."""
    before = set(threading.enumerate())
    engine = FakeEngine() if engine is None else engine
    settings = dataclasses.replace(SETTINGS, **changes)
    bound = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{bound.getsockname()[1]}"
    server = make_server(engine, tokenizer, MODEL, settings, bound)
    loops: list[asyncio.AbstractEventLoop] = []
    ends: list[bool] = []

    def run() -> None:
        ends.append(server.run(lambda: loops.append(asyncio.get_running_loop())))

    def stop() -> None:
        loops[0].call_soon_threadsafe(server.stop)

    engine_thread, thread = server.engine_thread, threading.Thread(target=run)
    thread.start()
    eventually(lambda: bool(loops))
    try:
        yield Running(engine, engine_thread, url, stop, thread, ends)
        if engine_thread.state != "failed":
            eventually(lambda: engine.idle == engine.slots and not engine_thread.in_flight)
    finally:
        if thread.is_alive():
            stop()
        thread.join(30)
    assert not thread.is_alive()
    assert not engine_thread.in_flight
    eventually(lambda: set(threading.enumerate()) <= before)


def complete(client, **params):
    params = {"model": MODEL, "prompt": "abc", "max_tokens": 8, "temperature": 0} | params
    return client.completions.create(**params)


def chat(client, **params):
    params = {"model": MODEL, "messages": [USER], "max_tokens": 8, "temperature": 0} | params
    return client.chat.completions.create(**params)
