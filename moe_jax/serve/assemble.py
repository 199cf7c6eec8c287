"""A server from its parts: what to serve, within which limits, at which socket."""

import itertools
import socket
import time
from dataclasses import dataclass
from typing import Literal

import numpy as np

from moe_jax.data.tokenizers import Tokenizer
from moe_jax.errors import UserError
from moe_jax.inference.batcher import Batcher
from moe_jax.inference.contract import Engine, GenerationRequest
from moe_jax.inference.programs import read_lengths
from moe_jax.inference.prompt_batches import SHORTEST
from moe_jax.inference.sampling_options import SamplingOptions
from moe_jax.serve.app import Api
from moe_jax.serve.engine_thread import EngineThread
from moe_jax.serve.metrics import Metrics
from moe_jax.serve.request import ServedModel
from moe_jax.serve.server import Server, is_loopback

#: How one addresses a server on this machine. A page in a browser that makes its own name resolve
#: to this machine (DNS rebinding) sends another one.
LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})

#: Which prompts are tried before clients may ask.
WarmUp = Literal["short", "all"]


@dataclass(frozen=True)
class Settings:
    """What a server allows.

    Raises:
        UserError: for a limit that would let nothing through.
    """

    #: Texts that may wait for a slot.
    queue: int
    #: Tokens generated per text, at most; None is what the context holds.
    max_tokens: int | None
    #: Bytes of a request, at most.
    max_body: int
    #: What clients must present; None lets everybody in.
    api_key: str | None
    #: Seconds that running answers get to finish once the server is asked to end.
    grace: float
    #: Seconds without a step after which the engine counts as stuck.
    stalled_after: float

    def __post_init__(self) -> None:
        least = {"queue": 0, "max_tokens": 1, "max_body": 1, "grace": 0, "stalled_after": 0}
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and not value >= smallest:
                raise UserError(f"{name} ({value}) must be {smallest} or more")
        if self.api_key is not None and not self.api_key.strip():
            raise UserError("the API key is empty: write one, or leave it out to let everybody in")


def make_server(
    engine: Engine, tokenizer: Tokenizer, name: str, settings: Settings, bound: socket.socket
) -> Server:
    """Return a server, not running yet.

    Args:
        engine: nobody else may use it.
        tokenizer: the model's.
        name: of the model, for clients.
        settings: its limits.
        bound: see `listen`.
    """
    metrics = Metrics()
    engine_thread = EngineThread(
        Batcher(engine, tokenizer),
        queue=settings.queue,
        stalled_after=settings.stalled_after,
        metrics=metrics,
    )
    served = ServedModel(name, int(time.time()), engine.context, engine.vocab_size, tokenizer)
    api = Api(
        served,
        engine_thread,
        metrics,
        max_body=settings.max_body,
        max_tokens=settings.max_tokens or engine.context,
        api_key=settings.api_key,
        hosts=LOCAL if settings.api_key is None and is_loopback(bound) else None,
    )
    return Server(api.app(), engine_thread, bound, grace=settings.grace)


def warm_up(engine: Engine, tokenizer: Tokenizer, prompts: WarmUp) -> None:
    """Compile what requests need by meeting some, so that the first clients do not wait for it.

    Args:
        engine: nobody uses it yet.
        tokenizer: the model's.
        prompts: "short" compiles decode for every length it reads, and prefill of the prompts
            that this takes; "all" prefill of prompts of every padded length, one at a time and
            as many as there are slots.
    """
    batcher = Batcher(engine, tokenizer)
    # The step after a prompt that fills a read length needs the next.
    lengths, counts = [1, *read_lengths(engine.context)[:-1]], [1]
    if prompts == "all":
        longest = engine.context - 1
        doubled = itertools.takewhile(lambda n: n < longest, (SHORTEST << i for i in range(64)))
        lengths, counts = [*doubled, longest], sorted({1, engine.slots})
    for length, count in itertools.product(lengths, counts):
        tokens = np.zeros(length, np.int32)
        one = GenerationRequest(tokens, SamplingOptions(temperature=0), max_tokens=2)
        for _ in range(count):
            batcher.submit(one)
        while batcher.busy:
            batcher.advance()
