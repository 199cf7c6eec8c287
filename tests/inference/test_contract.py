"""Requests, events and what they add up to."""

import dataclasses
import inspect

import numpy as np
import pytest
from support.serving.fake_engine import FakeEngine

from moe_jax.errors import UserError
from moe_jax.inference.contract import Completion, Engine, Event, GenerationRequest, Prompt, Score
from moe_jax.inference.engine import CachedEngine
from moe_jax.inference.multihost import BroadcastingEngine
from moe_jax.inference.sampling_options import SamplingOptions

TOKENS = np.array([1, 2], np.int32)


def request(**changes) -> GenerationRequest:
    return GenerationRequest(TOKENS, SamplingOptions(), **{"max_tokens": 4} | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_tokens": 0}, r"max_tokens \(0\) must be 1 or more"),
        ({"stop": ("x", "")}, "stop holds an empty string"),
    ],
)
def test_requests_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        request(**changes)
    with pytest.raises(UserError, match=message):
        dataclasses.replace(request(), **changes)


def test_a_request_is_the_prompt_that_an_engine_takes():
    one = request(end_ids=frozenset({7}))
    assert isinstance(one, Prompt)
    assert one.tokens is TOKENS
    (token,) = FakeEngine().start([one])
    assert (token.slot, token.alternatives) == (0, ())


def test_equal_requests_are_not_one_request():
    one, other = request(), request()
    assert one != other
    assert len({one, other, one}) == 2


def test_a_completion_is_the_sum_of_its_events():
    events = [
        Event(3, "a", (97,), (-1.0,), alternatives=(((5, -0.5),),)),
        Event(3, "", (195,), (-2.0,), alternatives=((),)),
        Event(3, "é", (169,), (-0.5,), "stop", ((),)),
    ]
    whole = Completion("", (), (), "")
    for event in events:
        assert not whole.finish
        whole = whole.after(event)
    assert whole == Completion(
        "aé", (97, 195, 169), (-1.0, -2.0, -0.5), "stop", (((5, -0.5),), (), ())
    )


def test_perplexity_is_of_the_tokens_that_follow_others():
    score = Score((4, 5, 6), (np.log(0.5), np.log(0.125)))
    assert score.perplexity == pytest.approx(4.0)


@pytest.mark.parametrize("kind", [CachedEngine, BroadcastingEngine, FakeEngine])
def test_engines_have_the_calls_of_the_contract(kind):
    for name in ("start", "step", "release"):
        promised, has = (inspect.signature(getattr(c, name)) for c in (Engine, kind))
        assert list(has.parameters) == list(promised.parameters), name
    assert isinstance(inspect.getattr_static(kind, "idle"), property)
