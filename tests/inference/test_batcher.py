from dataclasses import dataclass, field

import numpy as np
import pytest
from support.serving.fake_engine import FakeEngine, alone, alternatives, logprob, scripted

from moe_jax.data.tokenizers import ByteTokenizer
from moe_jax.inference.batcher import Batcher
from moe_jax.inference.contract import Event, GenerationRequest
from moe_jax.inference.sampling_options import SamplingOptions

GREEDY = SamplingOptions(temperature=0)
BYTES = ByteTokenizer()


def batcher(engine):
    return Batcher(engine, BYTES)


def request(text, max_tokens=8, *, seed=None, **more):
    sampling = GREEDY if seed is None else SamplingOptions(temperature=1.0, seed=seed)
    return GenerationRequest(BYTES.encode(text), sampling, max_tokens=max_tokens, **more)


@dataclass
class Answer:
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    finish: str = ""


def drain(batcher, answers=None):
    """Advances until nothing is left; answers by request number."""
    answers = {} if answers is None else answers
    while batcher.busy:
        collect(batcher.advance(), answers)
    return answers


def collect(events, answers):
    for event in events:
        answer = answers.setdefault(event.request, Answer())
        assert not answer.finish, "an event after the last"
        assert event.logprobs == tuple(map(logprob, event.tokens))
        answer.text += event.text
        answer.tokens += event.tokens
        answer.finish = event.finish


def answered(engine, one):
    """The answer to one request on its own."""
    batch = batcher(engine)
    number = batch.submit(one)
    answer = drain(batch)[number]
    assert engine.idle == engine.slots
    return answer


def test_a_continuation_is_decoded_after_its_own_prompt():
    told = []

    class Listening(ByteTokenizer):
        def stream_decoder(self, prompt):
            told.append(bytes(prompt.tolist()))
            return super().stream_decoder(prompt)

    batch = Batcher(FakeEngine(slots=2), Listening())
    for text in ("abc", "de"):
        batch.submit(request(text, 2))
    drain(batch)
    assert told == [b"abc", b"de"]


def test_requests_of_mixed_length_are_answered_as_if_alone():
    engine = FakeEngine(slots=4)
    batch = batcher(engine)
    rng = np.random.default_rng(0)
    wanted, answers = {}, {}
    for index in range(40):
        prompt = "".join(map(chr, rng.integers(97, 123, rng.integers(1, 40))))
        one = request(prompt, int(rng.integers(1, 30)), seed=index if index % 2 else None)
        wanted[batch.submit(one)] = alone(one.tokens, one.max_tokens, one.sampling)
        # Some come while others run.
        if index % 3 == 0:
            collect(batch.advance(), answers)
    drain(batch, answers)
    assert {number: answer.tokens for number, answer in answers.items()} == wanted
    assert all(answer.finish == "length" for answer in answers.values())
    assert all(answer.text == BYTES.decode(answer.tokens) for answer in answers.values())
    assert (engine.idle, batch.running, batch.waiting) == (4, 0, 0)


def test_a_freed_slot_goes_to_the_next_request_before_others_end():
    engine = FakeEngine(slots=2)
    batch = batcher(engine)
    long, short, next_one = (batch.submit(request("ab", n)) for n in (20, 2, 3))
    # Start two, step, and start the third in place of the one that ended.
    events = [[event.request for event in batch.advance()] for _ in range(4)]
    assert events == [[long, short], [long, short], [next_one], [long, next_one]]
    assert (batch.running, batch.waiting) == (2, 0)


def test_requests_start_in_the_order_they_came_as_many_as_fit():
    batch = batcher(engine := FakeEngine(slots=3))
    numbers = [batch.submit(request("a", 5)) for _ in range(5)]
    events = batch.advance()
    assert [event.request for event in events] == numbers[:3]
    assert (batch.running, batch.waiting) == (3, 2)
    assert engine.calls == [("start", 3)]


def test_a_flood_of_new_requests_does_not_keep_running_ones_from_going_on():
    batch = batcher(engine := FakeEngine(slots=2))
    batch.submit(request("a", 20))
    batch.advance()
    for _ in range(10):
        batch.submit(request("b", 1))
        batch.advance()
    assert [name for name, _ in engine.calls if name != "release"] == ["start", "step"] * 5 + [
        "start"
    ]


def test_requests_that_end_at_their_first_token_leave_the_turn_to_the_next():
    batch = batcher(engine := FakeEngine(slots=1))
    for _ in range(3):
        batch.submit(request("b", 1))
    for _ in range(3):
        assert len(batch.advance()) == 1
    assert not batch.busy
    assert ("step", 1) not in engine.calls


def test_one_token_needs_no_step():
    engine = FakeEngine()
    answer = answered(engine, request("abc", 1))
    assert len(answer.tokens) == 1
    assert engine.calls == [("start", 1), ("release", 1)]


def test_nothing_to_do_does_not_call_the_engine():
    batch = batcher(engine := FakeEngine())
    assert not batch.busy
    assert batch.advance() == []
    assert engine.calls == []


def test_an_end_token_stops_without_text_and_counts():
    engine = FakeEngine(following=scripted([*b"hi", 256, *b"more"], 3))
    answer = answered(engine, request("abc", 8, end_ids=frozenset({256, 300})))
    assert answer == Answer("hi", [*b"hi", 256], "stop")


def test_without_end_ids_an_end_token_is_one_like_any_other():
    engine = FakeEngine(following=scripted([*b"hi", 256, *b"x"], 3))
    assert answered(engine, request("abc", 4)) == Answer("hix", [*b"hi", 256, *b"x"], "length")


def test_an_end_token_as_the_last_one_allowed_is_a_stop():
    engine = FakeEngine(following=scripted([*b"hi", 256], 3))
    assert answered(engine, request("abc", 3, end_ids=frozenset({256}))).finish == "stop"


def test_a_stop_string_across_tokens_is_cut_off_and_ends_the_request():
    engine = FakeEngine(following=scripted(list(b"one END two"), 3))
    answer = answered(engine, request("abc", 11, stop=("END", "two")))
    assert answer == Answer("one ", list(b"one END"), "stop")


def test_the_beginning_of_a_stop_string_is_not_shown_before_it_is_known_not_to_be_one():
    batch = batcher(FakeEngine(following=scripted(list(b"aENxyz"), 3)))
    batch.submit(request("abc", 6, stop=("END",)))
    texts = [event.text for _ in range(6) for event in batch.advance()]
    assert texts == ["a", "", "", "ENx", "y", "z"]


def test_a_beginning_of_a_stop_string_is_shown_when_the_request_ends_there():
    engine = FakeEngine(following=scripted(list(b"aEN"), 3))
    assert answered(engine, request("abc", 3, stop=("END",))) == Answer("aEN", [*b"aEN"], "length")


def test_a_stop_string_that_only_the_end_completes_is_a_stop():
    # Half a character is held back, and becomes the replacement character when nothing follows.
    half = [*b"a", *"€".encode()[:2]]
    engine = FakeEngine(following=scripted(half, 3))
    assert answered(engine, request("abc", 3, stop=("\ufffd",))) == Answer("a", half, "stop")


def test_a_character_spread_over_tokens_comes_whole_and_a_broken_one_is_replaced():
    text = "é€".encode()
    engine = FakeEngine(following=scripted(list(text), 1))
    batch = batcher(engine)
    batch.submit(request("a", len(text) - 1))
    texts = [event.text for _ in range(4) for event in batch.advance()]
    assert texts == ["", "é", "", "\ufffd"]


def test_the_context_ends_a_request_with_length():
    answer = answered(FakeEngine(context=10), request("abcdef", 100))
    assert (len(answer.tokens), answer.finish) == (4, "length")


def test_alternatives_come_with_their_tokens_to_those_who_ask():
    batch = batcher(FakeEngine())
    asking = SamplingOptions(temperature=0, top_logprobs=2)
    one = batch.submit(GenerationRequest(BYTES.encode("abc"), asking, max_tokens=4))
    batch.submit(request("abc", 4))
    events = [event for _ in range(4) for event in batch.advance()]
    for event in events:
        (token,) = event.tokens
        asked = event.request == one
        assert event.alternatives == ((alternatives(token, 2) if asked else ()),)


def test_cancelling_frees_the_slot_at_once_and_the_others_do_not_notice():
    engine = FakeEngine(slots=2)
    batch = batcher(engine)
    one, two, three = (request(text, 12) for text in ("abc", "abd", "abe"))
    numbers = [batch.submit(r) for r in (one, two, three)]
    answers: dict[int, Answer] = {}
    collect(batch.advance(), answers)
    batch.cancel(numbers[0])
    assert (engine.idle, batch.running) == (1, 1)
    events = batch.advance()
    assert events[0] == Event(numbers[0], "", (), (), "cancelled")
    drain(batch, collect(events, answers) or answers)
    assert answers[numbers[0]].finish == "cancelled"
    for number, other in zip(numbers[1:], (two, three), strict=True):
        assert answers[number].tokens == alone(other.tokens, 12, GREEDY)
    assert engine.idle == 2


def test_cancelling_a_waiting_request_never_starts_it():
    batch = batcher(engine := FakeEngine(slots=1))
    batch.submit(request("a", 3))
    waiting = batch.submit(request("b", 3))
    batch.advance()
    batch.cancel(waiting)
    assert batch.waiting == 0
    answers = drain(batch)
    assert answers[waiting] == Answer("", [], "cancelled")
    assert [call for call in engine.calls if call[0] == "start"] == [("start", 1)]


def test_cancelling_what_finished_or_never_was_changes_nothing():
    batch = batcher(FakeEngine())
    number = batch.submit(request("a", 1))
    drain(batch)
    batch.cancel(number)
    batch.cancel(99)
    assert not batch.busy


def test_the_engine_gets_the_very_prompts_that_were_submitted():
    taken = []

    class Listening(FakeEngine):
        def start(self, prompts):
            taken.extend(prompts)
            return super().start(prompts)

    batch = batcher(Listening())
    requests = [request("ab", 1), request("c", 1)]
    for one in requests:
        batch.submit(one)
    drain(batch)
    assert taken == requests


def test_what_the_engine_raises_comes_through():
    engine = FakeEngine()
    batch = batcher(engine)
    batch.submit(request("a", 5))
    batch.advance()
    engine.failure = RuntimeError("device lost")
    with pytest.raises(RuntimeError, match="device lost"):
        batch.advance()
