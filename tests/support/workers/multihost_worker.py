"""One process of a job whose engine computes over all of them. Run by test_multihost.py; no test.

Prints what the engine answered, as JSON: process 0 leads, the other one follows.
"""

import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from support.serving.fake_engine import FakeEngine

from moe_jax.data.tokenizers import ByteTokenizer
from moe_jax.inference import multihost
from moe_jax.inference.batcher import Batcher
from moe_jax.inference.contract import GenerationRequest
from moe_jax.inference.sampling_options import SamplingOptions


def join(index: int, port: int) -> Mesh:
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    address = f"127.0.0.1:{port}"
    jax.distributed.initialize(address, 2, index, coordinator_bind_address=address)
    return jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))


class SpreadEngine(FakeEngine):
    """Sums every token over the mesh: hangs or answers nonsense where processes disagree."""

    def __init__(self, mesh: Mesh, **more):
        super().__init__(**more)
        spread = NamedSharding(mesh, PartitionSpec("x"))
        whole = NamedSharding(mesh, PartitionSpec())
        self._sum = jax.jit(jnp.sum, out_shardings=whole)
        self._place = lambda n: jax.make_array_from_callback(
            (4,), spread, lambda index: np.full(4, n, np.int32)[index]
        )
        self.tokens: list[tuple[int, int]] = []

    def _next(self, slot):
        token = super()._next(slot)
        total = int(self._sum(self._place(token.id)))
        assert total == 4 * token.id, (total, token)
        self.tokens.append((token.slot, token.id))
        return token


def lead(engine: SpreadEngine, channel: multihost.Channel) -> dict[int, list[int]]:
    leading = multihost.BroadcastingEngine(engine, channel)
    batcher = Batcher(leading, ByteTokenizer())
    sampling = SamplingOptions(temperature=0.5, seed=3)
    answers: dict[int, list[int]] = {}
    for round_ in range(2):
        for text in ("abc", "hello", "xy", "q" * 20):
            tokens = ByteTokenizer().encode(text)
            batcher.submit(GenerationRequest(tokens, sampling, max_tokens=9 + round_))
        while batcher.busy:
            for event in batcher.advance():
                answers.setdefault(event.request, []).extend(event.tokens)
        # Longer than a wait lasts: who follows must sleep through it and go on.
        time.sleep(1)
    leading.stop()
    return answers


def main() -> None:
    index, port = map(int, sys.argv[1:])
    # Small, so that a short test sees several waits and meetings.
    multihost.WAIT_MS, multihost.MEET_AFTER = 200, 8
    mesh = join(index, port)
    engine = SpreadEngine(mesh, slots=3, context=64)
    channel = multihost.Channel(multihost.job_store(), "engine")
    answers: dict[int, list[int]] = {}
    if index == 0:
        answers = lead(engine, channel)
    else:
        multihost.follow(engine, channel)
    store = multihost.job_store()
    left = len(store.key_value_dir_get("engine/"))
    store.wait_at_barrier("counted", 10_000)
    print(
        "RESULT"
        + json.dumps(
            {
                "tokens": engine.tokens,
                "calls": engine.calls,
                "idle": engine.idle,
                "answers": answers,
                "left": left,
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
