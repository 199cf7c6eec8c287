"""An engine that spans several processes: process 0 leads, the others repeat its calls.

An engine's tokens depend on its calls alone, so it is enough to tell the others which calls
process 0 makes, in order. They travel through the key-value store of JAX's coordination service:
who waits for the next one sleeps, for as long as nobody asks anything.
"""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from moe_jax.errors import UserError
from moe_jax.inference.contract import Engine, Prompt, Token
from moe_jax.inference.sampling_options import SamplingOptions

#: Calls after which all processes meet, so that old ones can be deleted. Meeting costs about what
#: a call does.
MEET_AFTER = 256
#: How long a wait for the next call lasts before it begins anew, so that signals are seen.
WAIT_MS = 5_000
#: A process that is further behind than this is stuck: as long as JAX gives processes to connect.
MEET_MS = 300_000


class Store(Protocol):
    """What is used of JAX's distributed client."""

    def key_value_set(self, key: str, value: str) -> None:
        """Let every process see a value; a key has one for ever."""
        ...

    def blocking_key_value_get(self, key: str, timeout_ms: int) -> str:
        """Wait for a key's value and return it; JaxRuntimeError after `timeout_ms`."""
        ...

    def key_value_delete(self, key: str) -> None:
        """Forget a key, in every process."""
        ...

    def wait_at_barrier(self, name: str, timeout_ms: int) -> None:
        """Wait until every process waits at the same barrier; a name serves once."""
        ...


def job_store() -> Store:
    """Return the store that the processes of this job share.

    Raises:
        UserError: this process is no part of a job.
    """
    # JAX has no public name for it.
    from jax._src import distributed

    client = distributed.global_state.client
    if client is None:
        raise UserError("this process is alone: call moe_jax.mesh.distributed.start_distributed")
    return client


class Channel:
    """Messages from process 0 to all others, in order.

    Args:
        store: shared by all processes.
        name: the same in all of them, and of no other channel of the job.
    """

    def __init__(self, store: Store, name: str):
        self._store, self._name = store, name
        self._count = 0

    def send(self, message: Any) -> None:
        """Send anything that JSON can hold to the others."""
        self._store.key_value_set(self._key(self._count), json.dumps(message))
        if self._passed():
            for index in range(self._count - MEET_AFTER, self._count):
                self._store.key_value_delete(self._key(index))

    def receive(self) -> Any:
        """Wait for the next message, however long it takes."""
        while True:
            try:
                text = self._store.blocking_key_value_get(self._key(self._count), WAIT_MS)
                break
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise
        self._passed()
        return json.loads(text)

    def _key(self, index: int) -> str:
        return f"{self._name}/{index}"

    def _passed(self) -> bool:
        """Count a message; return whether all processes have met after it."""
        self._count += 1
        if self._count % MEET_AFTER:
            return False
        self._store.wait_at_barrier(f"{self._name}/met {self._count}", MEET_MS)
        return True


class BroadcastingEngine:
    """Process 0's engine: the others learn of every call before it is made.

    Args:
        engine: this process's part.
        channel: to those that `follow`.
    """

    def __init__(self, engine: Engine, channel: Channel):
        self._engine, self._channel = engine, channel
        #: Sent along with the next call: freeing a slot computes nothing that others wait for.
        self._released: list[int] = []

    @property
    def slots(self) -> int:
        """As in `Engine`, like all that follows but `stop`."""
        return self._engine.slots

    @property
    def context(self) -> int:
        """Tokens of a text, prompt included."""
        return self._engine.context

    @property
    def vocab_size(self) -> int:
        """Ids are below."""
        return self._engine.vocab_size

    @property
    def idle(self) -> int:
        """Slots that are free."""
        return self._engine.idle

    def start(self, prompts: Sequence[Prompt]) -> list[Token]:
        """Put prompts into free slots, in all processes, and return their first tokens."""
        self._send("start", [_pack(prompt) for prompt in prompts])
        return self._engine.start(prompts)

    def step(self) -> list[Token]:
        """Return the next token of every slot in use."""
        self._send("step")
        return self._engine.step()

    def release(self, slots: Iterable[int]) -> None:
        """Free slots here; the others free them before the next call."""
        slots = list(slots)
        self._released += slots
        self._engine.release(slots)

    def stop(self) -> None:
        """Tell the others that this was all."""
        self._send("stop")

    def _send(self, call: str, argument: Any = None) -> None:
        released, self._released = self._released, []
        self._channel.send([released, call, argument])


def follow(engine: Engine, channel: Channel) -> None:
    """Repeat process 0's calls until it stops.

    Args:
        engine: this process's part.
        channel: from process 0's `BroadcastingEngine`.

    Raises:
        Exception: whatever the engine raises; process 0's raises it too.
    """
    while True:
        released, call, argument = channel.receive()
        if released:
            engine.release(released)
        if call == "stop":
            return
        if call == "start":
            engine.start([_unpack(packed) for packed in argument])
        else:
            engine.step()


def _pack(prompt: Prompt) -> list[Any]:
    return [prompt.tokens.tolist(), dataclasses.asdict(prompt.sampling)]


def _unpack(packed: list[Any]) -> Prompt:
    tokens, sampling = packed
    return Prompt(np.array(tokens, np.int32), SamplingOptions(**sampling))
