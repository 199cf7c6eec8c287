import dataclasses

import pytest
from support.serving.fake_engine import FakeEngine
from support.serving.served import BYTES, SETTINGS

from moe_jax.inference.programs import read_lengths
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


@pytest.mark.parametrize("prompts", ["short", "all"])
def test_warming_up_takes_a_step_of_every_length_that_is_read(prompts):
    lengths = []

    class Listening(FakeEngine):
        def start(self, prompts):
            lengths.extend(prompt.tokens.size for prompt in prompts)
            return super().start(prompts)

    warm_up(Listening(slots=1, context=5000), BYTES, prompts)
    reads = read_lengths(5000)
    assert len(reads) == 3
    assert {next(n for n in reads if n > length) for length in lengths} == {*reads}


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
