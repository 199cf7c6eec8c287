import dataclasses

import pytest
from fake_engine import FakeEngine
from served import BYTES, SETTINGS

from moe_jax.serve.assemble import warm_up


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queue": -1}, r"queue \(-1\) must be 0 or more"),
        ({"max_tokens": 0}, r"max_tokens \(0\) must be 1 or more"),
        ({"max_body": 0}, r"max_body \(0\)"),
        ({"grace": float("nan")}, r"grace \(nan\)"),
        ({"stalled_after": -1}, r"stalled_after \(-1\)"),
        ({"api_key": " "}, "the API key is empty"),
    ],
)
def test_limits_that_let_nothing_through_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SETTINGS, **change)


def test_warming_up_runs_prefill_and_decode_and_leaves_nothing():
    engine = FakeEngine()
    warm_up(engine, BYTES, "short")
    assert engine.calls == [("start", 1), ("step", 1), ("release", 1)]
    assert engine.idle == engine.slots


def test_warming_up_can_read_prompts_of_every_length_alone_and_together():
    lengths = []

    class Listening(FakeEngine):
        def start(self, prompts):
            lengths.append([prompt.tokens.size for prompt in prompts])
            return super().start(prompts)

    engine = Listening(slots=2, context=80)
    warm_up(engine, BYTES, "all")
    assert lengths == [[n] * count for n in (16, 32, 64, 79) for count in (1, 2)]
    assert engine.idle == engine.slots
