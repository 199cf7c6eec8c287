"""What the engine answers does not depend on slots, neighbours or the mesh; what it refuses."""

import math

import numpy as np
import pytest
from support.serving.engine_cases import (
    CONTEXT,
    EXPERT_8,
    GREEDY,
    engine,
    freed,
    greedy,
    next_logits,
    prompt,
    session,
)

from moe_jax.inference.contract import Prompt
from moe_jax.inference.engine import CachedEngine
from moe_jax.inference.sampling_options import SamplingOptions
from moe_jax.model.weights import Weights


def run(machine: CachedEngine, prompts: list[Prompt], count: int) -> list[list[int]]:
    """Continues prompts together; frees their slots."""
    first = machine.start(prompts)
    texts = {token.slot: [token.id] for token in first}
    for _ in range(count - 1):
        for token in machine.step():
            texts[token.slot].append(token.id)
    machine.release(texts)
    return [texts[token.slot] for token in first]


@pytest.mark.parametrize(
    "layout",
    [
        EXPERT_8,
        pytest.param(("mesh.data=2", "mesh.expert=4"), marks=pytest.mark.slow),
        pytest.param(
            ("mesh.expert=4", "mesh.tensor=2", "exchange.streams=2"), marks=pytest.mark.slow
        ),
    ],
    ids=str,
)
def test_texts_of_mixed_lengths_are_those_of_full_forward_passes(layout):
    machine = engine(*layout, slots=16)
    prompts = [prompt(size) for size in (1, 3, 17, 9, 5, 2, 16, 12, 4, 6, 7)]
    count = CONTEXT - 17
    texts = run(machine, prompts, count)
    assert texts == [greedy(p.tokens, count) for p in prompts]
    assert machine.idle == 16


def test_a_step_reads_as_much_of_the_cache_as_its_longest_text_needs(monkeypatch):
    monkeypatch.setattr("moe_jax.inference.programs.SHORTEST_READ", 6)
    machine = engine(*EXPERT_8, slots=32)
    decode, read = machine._programs.decode, []
    monkeypatch.setattr(machine._programs, "decode", lambda n: read.append(n) or decode(n))
    # The longer text is at positions 3 to 5, then at 6 to 8.
    prompts = [prompt(2), prompt(3)]
    assert run(machine, prompts, 7) == [greedy(p.tokens, 7) for p in prompts]
    assert read == [6, 6, 6, 24, 24, 24]
    # A slot's longer text is gone with it.
    assert run(machine, [prompt(3)], 3) == [greedy(prompt(3).tokens, 3)]
    assert read[6:] == [6, 6]


@pytest.mark.slow
def test_slots_are_used_again_while_others_go_on():
    machine = freed(engine(*EXPERT_8))
    long = machine.start([prompt(4)])[0]
    text = [long.id]
    for size in (11, 2, 6):
        short = machine.start([prompt(size)])[0]
        got = {long.slot: [], short.slot: [short.id]}
        for _ in range(3):
            for token in machine.step():
                got[token.slot].append(token.id)
        machine.release([short.slot])
        text += got[long.slot]
        assert got[short.slot] == greedy(prompt(size).tokens, 4)
    assert text == greedy(prompt(4).tokens, 10)
    assert machine.idle == 7


def test_a_text_that_joins_others_is_sampled_by_its_own_options():
    machine = freed(engine(*EXPERT_8))
    hot = prompt(6, SamplingOptions(temperature=1.5, seed=3))
    alone = run(machine, [hot], 5)[0]
    machine.start([prompt(3)])
    machine.step()
    (joined,) = machine.start([hot])
    text = [joined.id]
    for _ in range(4):
        text += [token.id for token in machine.step() if token.slot == joined.slot]
    assert text == alone


def test_a_sampled_text_depends_on_its_seed_alone():
    machine = freed(engine(*EXPERT_8))
    hot = SamplingOptions(temperature=1.5, seed=3)
    others = [prompt(n, SamplingOptions(temperature=1.0, seed=n)) for n in (2, 8, 5)]
    alone = run(machine, [prompt(6, hot)], 8)[0]
    among = run(machine, [*others, prompt(6, hot)], 8)[-1]
    other_seed = run(machine, [prompt(6, SamplingOptions(temperature=1.5, seed=4))], 8)[0]
    assert alone == among != other_seed
    noise = run(machine, [prompt(6, SamplingOptions(temperature=1e6))], 8)[0]
    assert len(set(noise)) > 3, "each token draws anew"


@pytest.mark.slow
def test_repetition_penalty_knows_prompt_and_generated_tokens():
    machine = freed(engine(*EXPERT_8))
    never_again = SamplingOptions(temperature=0, repetition_penalty=1e9)
    start = prompt(6, never_again)
    text = run(machine, [start], 12)[0]
    assert len({*text, *start.tokens.tolist()}) == 12 + len({*start.tokens.tolist()})


def test_repetition_penalty_is_of_the_prompt_at_first_then_of_what_was_generated_too():
    machine = freed(engine(*EXPERT_8))
    options = SamplingOptions(temperature=0, repetition_penalty=3.0)
    prompts = [prompt(size, options) for size in (3, 9, 5, 12, 6, 8, 7)]
    wanted = [greedy(p.tokens, 8, repetition=3.0) for p in prompts]
    plain = [greedy(p.tokens, 1) for p in prompts]
    assert any(one[:1] != other for one, other in zip(wanted, plain, strict=True))
    assert run(machine, prompts, 8) == wanted


#: Rows alone on their devices; rows with others, and each spread over two.
SPREAD = [
    EXPERT_8,
    pytest.param(("mesh.expert=4", "mesh.tensor=2", "exchange.streams=2"), marks=pytest.mark.slow),
]
PENALTIES = [(0.6, 0.0), (0.0, 1.0), (0.3, 0.0), (0.0, 0.0), (0.5, -0.5), (-0.3, 0.0), (0.3, 0.4)]


def penalised(size: int, frequency: float, presence: float) -> Prompt:
    options = SamplingOptions(temperature=0, frequency_penalty=frequency, presence_penalty=presence)
    return prompt(size, options)


@pytest.mark.parametrize("layout", SPREAD, ids=str)
def test_penalties_count_what_was_generated_in_the_slot_by_this_text_alone(layout):
    machine = freed(engine(*layout))
    sizes = (3, 9, 5, 2, 6, 8, 7)
    cases = list(zip(sizes, PENALTIES, strict=True))
    wanted = [greedy(prompt(n).tokens, 12, frequency=f, presence=p) for n, (f, p) in cases]
    plain = [greedy(prompt(n).tokens, 12) for n in sizes]
    assert sum(one != other for one, other in zip(wanted, plain, strict=True)) == 6
    texts = [penalised(n, *both) for n, both in cases]
    assert run(machine, texts, 12) == wanted
    # In the same slots, after an idle step, and in each other's.
    machine.start([prompt(1)])
    machine.step()
    machine.release([0])
    assert run(machine, texts, 12) == wanted
    assert run(machine, texts[::-1], 12) == wanted[::-1]


@pytest.mark.parametrize("layout", SPREAD, ids=str)
def test_a_bias_is_of_its_own_text_alone(layout):
    machine = freed(engine(*layout))
    always, never = ({7: 100.0}, {token: -100.0 for token in range(32) if token != 9})
    options = [SamplingOptions(temperature=0, logit_bias=bias) for bias in ({}, always, never)]
    texts = run(machine, [prompt(3, one) for one in options], 5)
    assert texts == [greedy(prompt(3).tokens, 5), [7] * 5, [9] * 5]


@pytest.mark.parametrize("layout", SPREAD, ids=str)
def test_alternatives_are_the_likeliest_tokens_for_those_who_ask(layout):
    machine = freed(engine(*layout))
    asks = SamplingOptions(
        temperature=1.5, seed=1, repetition_penalty=3.0, presence_penalty=2.0, top_logprobs=3
    )
    one, other = prompt(3, asks), prompt(4)
    text = one.tokens.tolist()
    for tokens in (machine.start([one, other]), machine.step(), machine.step()):
        logits = next_logits(text)
        likeliest = np.argsort(-logits)[:3]
        asked, unasked = sorted(tokens, key=lambda token: not token.alternatives)
        assert [token for token, _ in asked.alternatives] == likeliest.tolist()
        logprobs = logits - np.log(np.exp(logits).sum())
        got = [logprob for _, logprob in asked.alternatives]
        np.testing.assert_allclose(got, logprobs[likeliest], atol=1e-5)
        assert asked.logprob == pytest.approx(logprobs[asked.id], abs=1e-5)
        assert unasked.alternatives == ()
        text.append(asked.id)


def test_alternatives_of_a_first_token_are_of_its_own_prompt_whichever_slot_it_gets():
    machine = engine(*EXPERT_8, slots=16)
    others = [token.slot for token in machine.start([prompt(2)] * 8)]
    # Second on its device, but first among the prompts that are read with it.
    (token,) = machine.start([prompt(3, SamplingOptions(temperature=0, top_logprobs=2))])
    machine.release([*others, token.slot])
    likeliest = np.argsort(-next_logits(prompt(3).tokens.tolist()))[:2]
    assert [other for other, _ in token.alternatives] == likeliest.tolist()


def test_logprobs_are_of_the_models_own_distribution():
    machine = freed(engine(*EXPERT_8))
    hot = SamplingOptions(temperature=2.0, top_k=1)
    first = machine.start([prompt(3), prompt(3, hot)])
    assert first[0].id == first[1].id
    assert first[0].logprob == pytest.approx(first[1].logprob)
    assert math.exp(first[0].logprob) > 1 / 32


@pytest.mark.slow
def test_more_prompts_than_a_wave_are_read_in_several(monkeypatch):
    monkeypatch.setattr("moe_jax.inference.prompt_batches.TOKENS_AT_A_TIME", 32)
    machine = engine(*EXPERT_8, slots=24)
    prompts = [prompt(size, seed=n) for n, size in enumerate([3, 14, 2] * 8)]
    first = machine.start(prompts)
    assert [token.id for token in first] == [greedy(p.tokens, 1)[0] for p in prompts]
    assert machine.idle == 0


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], f"0 tokens in a context of {CONTEXT}: prompts come checked"),
        ([1] * CONTEXT, f"{CONTEXT} tokens in a context of {CONTEXT}: prompts come checked"),
        ([1, 32], "ids from 1 to 32 in a vocabulary of 32: prompts come checked"),
        ([-1], "ids from -1 to -1 in a vocabulary of 32"),
    ],
)
def test_unchecked_prompts_fail_loudly_and_take_no_slot(tokens, message):
    machine = freed(engine(*EXPERT_8))
    with pytest.raises(AssertionError, match=message):
        machine.start([prompt(2), Prompt(np.array(tokens, np.int32), GREEDY)])
    assert machine.idle == 8


def test_misuse_is_refused():
    machine = freed(engine(*EXPERT_8))
    with pytest.raises(ValueError, match="9 prompts for 8 free slots"):
        machine.start([prompt(2)] * 9)
    with pytest.raises(ValueError, match="no text is under way"):
        machine.step()
    with pytest.raises(ValueError, match="slot 3 is not in use"):
        machine.release([3])
    (token,) = machine.start([prompt(CONTEXT - 1)])
    with pytest.raises(ValueError, match="have filled their context of 24 tokens"):
        machine.step()
    machine.release([token.slot])


@pytest.mark.parametrize(
    ("overrides", "slots", "message"),
    [
        (EXPERT_8, 12, r"slots \(12\) must be a multiple of the 8 devices .* take 16"),
        (("mesh.expert=4", "mesh.pipe=2", "model.num_layers=4"), 8, r"mesh.pipe \(2\) must be 1"),
        ((*EXPERT_8, "exchange.overflow=drop"), 8, "depend on the rest of the batch"),
    ],
)
def test_what_cannot_decode_is_refused(overrides, slots, message):
    made = session(*overrides)
    with pytest.raises(ValueError, match=message):
        CachedEngine(made, Weights({}, {}), slots=slots, context=CONTEXT)
