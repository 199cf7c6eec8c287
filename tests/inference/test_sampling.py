"""Sampling against NumPy and Hugging Face: every option, rows on their own, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe_jax.inference import sampling
from moe_jax.inference.sampling import Held, SamplingArrays, sample, stack
from moe_jax.inference.sampling_options import MAX_BIASES, MAX_TOP_LOGPROBS, SamplingOptions

DRAWS = 4096
LOGITS = np.array([1.0, 3.0, 2.0, -1.0, 2.5, 0.0, -4.0, 1.5], np.float32)

sample = jax.jit(sample)


@jax.jit
def process(logits, arrays, held):
    """Returns the logits that `sample` draws a row with temperature from, up to a constant."""
    return sampling._restrict(sampling._penalise(logits, arrays, held), arrays)


def held(shape, *, seen=None, counts=None):
    """What texts hold: `seen` in their prompts, `counts` generated."""
    seen = np.zeros(shape, bool) if seen is None else np.asarray(seen)
    return Held(seen, np.zeros(shape, np.int32) if counts is None else np.asarray(counts, np.int32))


def pick(logits, options, *, seen=None, counts=None, index=0):
    """Returns what `sample` picks for rows [b, v] with one option each."""
    logits = jnp.asarray(logits, jnp.float32)
    index_b = jnp.full(len(options), index, jnp.int32)
    return sample(logits, stack(options), held(logits.shape, seen=seen, counts=counts), index_b)


def draw(logits, *, seen=None, counts=None, **options):
    """Returns a token for each of DRAWS seeds."""
    rows = np.tile(logits, (DRAWS, 1))
    seen, counts = (None if a is None else np.tile(a, (DRAWS, 1)) for a in (seen, counts))
    seeds = [SamplingOptions(**options, seed=seed) for seed in range(DRAWS)]
    return np.asarray(pick(rows, seeds, seen=seen, counts=counts).ids_b)


def softmax(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def kept_by_top_p(logits, top_p):
    """Returns the fewest most likely tokens whose probabilities reach top_p."""
    probabilities = softmax(logits.astype(np.float64))
    kept, total = [], 0.0
    for token in np.argsort(-probabilities):
        kept.append(int(token))
        total += probabilities[token]
        if total >= top_p:
            return sorted(kept)
    raise AssertionError("probabilities sum to 1")


def assert_drawn_from(tokens, probabilities):
    shares = np.bincount(tokens, minlength=len(probabilities)) / DRAWS
    np.testing.assert_array_equal(shares[probabilities == 0], 0)
    # Four standard deviations of a share.
    np.testing.assert_array_less(
        abs(shares - probabilities), 4 * np.sqrt(probabilities / DRAWS) + 1e-9
    )


def restricted(logits, kept, temperature=1.0):
    masked = np.where(np.isin(np.arange(len(logits)), kept), logits / temperature, -np.inf)
    return softmax(masked)


def test_temperature_zero_takes_the_likeliest_and_the_first_of_equals():
    rows = [[0.0, 2.0, 1.0], [5.0, 1.0, 5.0], [-3.0, -2.0, -1.0]]
    options = [SamplingOptions(temperature=0, top_k=1, top_p=0.1, seed=n) for n in range(3)]
    assert pick(rows, options).ids_b.tolist() == [1, 0, 2]


def test_the_smallest_temperatures_are_greedy_too():
    for temperature in (1e-300, 1e-40, 1e-20):
        assert set(draw(LOGITS, temperature=temperature).tolist()) == {1}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_divides_the_logits(temperature):
    assert_drawn_from(draw(LOGITS, temperature=temperature), softmax(LOGITS / temperature))


@pytest.mark.parametrize("top_k", [1, 3, 8, 100])
def test_top_k_leaves_the_k_likeliest(top_k):
    kept = np.argsort(-LOGITS)[:top_k]
    tokens = draw(LOGITS, temperature=1.0, top_k=top_k)
    assert_drawn_from(tokens, restricted(LOGITS, kept))


@pytest.mark.parametrize("top_p", [0.01, 0.4, 0.7, 0.95])
def test_top_p_leaves_the_fewest_that_reach_it(top_p):
    tokens = draw(LOGITS, temperature=1.0, top_p=top_p)
    assert_drawn_from(tokens, restricted(LOGITS, kept_by_top_p(LOGITS, top_p)))


@pytest.mark.parametrize("top_p", [1e-9, 1e-45, 1e-300])
def test_top_p_too_small_for_float32_leaves_the_likeliest(top_p):
    assert set(draw(LOGITS, temperature=5.0, top_p=top_p).tolist()) == {1}


def test_both_halves_of_a_seed_count():
    seeds = np.asarray(stack([SamplingOptions(seed=s) for s in (0, 1, 2**32, 2**64 - 1)]).seed_b2)
    np.testing.assert_array_equal(seeds, [[0, 0], [0, 1], [1, 0], [2**32 - 1] * 2])


@pytest.mark.parametrize(("top_k", "nucleus"), [(4, [1, 2, 4]), (3, [1, 4])])
def test_top_p_judges_what_temperature_and_top_k_left(top_k, nucleus):
    """Without the temperature it would keep 2 tokens, without top-k 3."""
    assert [len(kept_by_top_p(logits, 0.65)) for logits in (LOGITS, LOGITS / 2)] == [2, 3]
    tokens = draw(LOGITS, temperature=2.0, top_k=top_k, top_p=0.65)
    assert_drawn_from(tokens, restricted(LOGITS, nucleus, temperature=2.0))


@pytest.mark.parametrize(("min_p", "kept"), [(0.3, [1, 2, 4]), (0.9, [1]), (1.0, [1])])
def test_min_p_leaves_tokens_nearly_as_likely_as_the_likeliest(min_p, kept):
    tokens = draw(LOGITS, temperature=1.0, min_p=min_p)
    assert_drawn_from(tokens, restricted(LOGITS, kept))


def test_repetition_penalty_makes_what_was_seen_less_likely_and_nothing_else():
    seen = np.isin(np.arange(8), [1, 3])
    penalised = LOGITS.copy()
    penalised[1], penalised[3] = 3.0 / 1.5, -1.0 * 1.5
    tokens = draw(LOGITS, seen=seen, temperature=1.0, repetition_penalty=1.5)
    assert_drawn_from(tokens, softmax(penalised))


def test_repetition_penalty_moves_greedy_rows_too():
    options = [SamplingOptions(temperature=0, repetition_penalty=p) for p in (1.0, 1.1, 1.3, 0.5)]
    seen = np.tile(np.isin(np.arange(8), [1]), (4, 1))
    assert pick(np.tile(LOGITS, (4, 1)), options, seen=seen).ids_b.tolist() == [1, 1, 4, 1]


COUNTS = np.array([0, 1, 3, 2, 0, 0, 1, 0])
IN_PROMPT = np.isin(np.arange(8), [1, 4])


@pytest.mark.parametrize("frequency", [0.0, 0.5, -0.25])
@pytest.mark.parametrize("presence", [0.0, 1.5, -2.0])
@pytest.mark.parametrize("repetition", [1.0, 1.4])
def test_frequency_and_presence_come_after_repetition_and_before_temperature(
    frequency, presence, repetition
):
    """OpenAI's formula; the prompt counts for the repetition penalty alone."""
    want = LOGITS.astype(np.float64)
    repeated = IN_PROMPT | (COUNTS > 0)
    want = np.where(repeated, np.where(want < 0, want * repetition, want / repetition), want)
    want = (want - frequency * COUNTS - presence * (COUNTS > 0)) / 0.5
    options = SamplingOptions(
        temperature=0.5,
        repetition_penalty=repetition,
        frequency_penalty=frequency,
        presence_penalty=presence,
    )
    rows = held((1, 8), seen=IN_PROMPT[None], counts=COUNTS[None])
    got = process(LOGITS[None], stack([options]), rows)
    np.testing.assert_allclose(jax.nn.softmax(got[0]), softmax(want), atol=1e-6)


def test_bias_is_added_before_the_repetition_penalty_to_the_tokens_it_names():
    """Row by row; the last token of the vocabulary is no place for what a row leaves empty."""
    biases = [{}, {1: -1.5, 3: 0.25}, {token: -3.0 + token for token in range(8)}]
    options = [
        SamplingOptions(temperature=1.0, repetition_penalty=1.4, logit_bias=bias) for bias in biases
    ]
    want = np.tile(LOGITS.astype(np.float64), (3, 1))
    for row, bias in zip(want, biases, strict=True):
        for token, value in bias.items():
            row[token] += value
    want = np.where(IN_PROMPT, np.where(want < 0, want * 1.4, want / 1.4), want)
    rows = np.tile(LOGITS, (3, 1))
    seen = np.tile(IN_PROMPT, (3, 1))
    got = process(rows, stack(options), held(rows.shape, seen=seen))
    np.testing.assert_allclose(jax.nn.softmax(got), [softmax(row) for row in want], atol=1e-6)
    greedy = [SamplingOptions(temperature=0, logit_bias=bias) for bias in ({}, {6: 100}, {1: -100})]
    assert pick(rows, greedy).ids_b.tolist() == [1, 6, 4]
    assert pick(rows[:1], greedy[2:]).ids_b.tolist() == [4], "also where no bias is positive"


def test_penalties_of_what_was_generated_move_greedy_rows_too():
    counts = np.tile([0, 2, 0, 0, 0, 0, 0, 0], (5, 1))
    names = ("frequency_penalty", "presence_penalty")
    rows = [{}, {names[0]: 0.2}, {names[0]: 0.3}, {names[1]: 0.4}, {names[1]: 0.6}]
    options = [SamplingOptions(temperature=0, **row) for row in rows]
    picked = pick(np.tile(LOGITS, (5, 1)), options, counts=counts)
    assert picked.ids_b.tolist() == [1, 1, 4, 1, 4]


def test_excluded_tokens_stay_excluded():
    logits = np.where(np.arange(8) < 3, LOGITS, -np.inf).astype(np.float32)
    seen, counts = np.ones(8, bool), np.arange(8)
    cuts = ({"top_k": 5}, {"top_p": 0.999}, {"min_p": 1e-9}, {"logit_bias": {5: 100}})
    for options in (*cuts, {"repetition_penalty": 2.0}, {"frequency_penalty": -2.0}):
        assert draw(logits, seen=seen, counts=counts, temperature=1.0, **options).max() < 3


def test_equally_likely_tokens_stand_or_fall_together():
    assert set(draw(np.zeros(4, np.float32), temperature=1.0, top_k=2)) == {0, 1, 2, 3}
    assert set(draw(np.zeros(4, np.float32), temperature=1.0, top_p=0.3)) == {0, 1, 2, 3}


MIXED = [
    SamplingOptions(temperature=1.0, seed=1),
    SamplingOptions(temperature=0),
    SamplingOptions(temperature=0.7, top_k=5, seed=2),
    SamplingOptions(temperature=1.3, top_p=0.8, repetition_penalty=1.2, seed=2**40 + 5),
    SamplingOptions(temperature=2.0, min_p=0.1, seed=2**64 - 1),
    SamplingOptions(
        frequency_penalty=0.7, presence_penalty=-0.4, logit_bias={2: 3}, seed=9, top_logprobs=3
    ),
]


def test_a_row_is_drawn_as_if_alone_wherever_it_is():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 50)).astype(np.float32) * 2
    seen, counts = rng.random((6, 50)) < 0.3, rng.integers(0, 3, (6, 50))
    for index in range(20):
        together = pick(logits, MIXED, seen=seen, counts=counts, index=index)
        order = rng.permutation(6)
        some = {"seen": seen[order], "counts": counts[order], "index": index}
        moved = pick(logits[order], [MIXED[i] for i in order], **some)
        assert together.ids_b[order].tolist() == moved.ids_b.tolist()
        for row in range(6):
            some = {"seen": seen[[row]], "counts": counts[[row]], "index": index}
            alone = pick(logits[[row]], [MIXED[row]], **some)
            assert alone.ids_b[0] == together.ids_b[row]
            np.testing.assert_allclose(alone.logprobs_b[0], together.logprobs_b[row], rtol=1e-6)


def test_seed_and_index_decide_the_draw():
    rows = np.zeros((64, 1000), np.float32)
    same = [SamplingOptions(temperature=1.0, seed=7)] * 64
    assert len(set(pick(rows, same).ids_b.tolist())) == 1
    # Both halves of a seed count.
    seeds = [SamplingOptions(temperature=1.0, seed=n << 20) for n in range(64)]
    assert len(set(pick(rows, seeds).ids_b.tolist())) > 40
    by_index = sample(rows, stack(same), held(rows.shape), np.arange(64, dtype=np.int32))
    assert len(set(by_index.ids_b.tolist())) > 40


def test_tokens_of_one_text_are_independent_draws():
    """One seed, DRAWS places: as good a sample as DRAWS seeds, pairs of neighbours included."""
    logits = np.array([0.0, 1.0, 0.5], np.float32)
    options = stack([SamplingOptions(temperature=1.0, seed=3)] * DRAWS)
    rows, index = np.tile(logits, (DRAWS, 1)), np.arange(DRAWS, dtype=np.int32)
    tokens = np.asarray(sample(rows, options, held(rows.shape), index).ids_b)
    assert_drawn_from(tokens, softmax(logits))
    pairs = tokens * 3 + np.roll(tokens, 1)
    assert_drawn_from(pairs, np.outer(softmax(logits), softmax(logits)).ravel())


def test_logprobs_are_of_the_untouched_distribution():
    logits = np.tile(LOGITS, (6, 1))
    picked = pick(logits, MIXED, seen=np.ones((6, 8), bool), counts=np.tile(np.arange(8), (6, 1)))
    logprobs = np.log(softmax(LOGITS.astype(np.float64)))
    np.testing.assert_allclose(picked.logprobs_b, logprobs[np.asarray(picked.ids_b)], rtol=1e-5)
    # There are fewer tokens than could be asked for.
    likeliest = np.argsort(-LOGITS)
    np.testing.assert_array_equal(picked.top_ids_bk, np.tile(likeliest, (6, 1)))
    np.testing.assert_allclose(
        picked.top_logprobs_bk, np.tile(logprobs[likeliest], (6, 1)), rtol=1e-5
    )


@pytest.mark.parametrize("asked", [0, 1, MAX_TOP_LOGPROBS])
def test_the_likeliest_tokens_are_computed_where_a_row_asks(asked):
    logits = np.random.default_rng(0).normal(size=(2, 50)).astype(np.float32)
    picked = pick(logits, [SamplingOptions(), SamplingOptions(top_logprobs=asked)])
    want = np.argsort(-logits, axis=-1)[:, :MAX_TOP_LOGPROBS]
    np.testing.assert_array_equal(picked.top_ids_bk, want if asked else np.zeros_like(want))


def test_other_options_compile_nothing_new(caplog):
    pick(np.tile(LOGITS, (5, 1)), MIXED[:5])
    others = [
        SamplingOptions(temperature=t, top_k=2, min_p=0.2, presence_penalty=1, top_logprobs=t)
        for t in (0, 1, 2, 3, 4)
    ]
    with jax.log_compiles(), caplog.at_level("WARNING"):
        pick(np.tile(LOGITS, (5, 1)), others, index=4)
    assert "sample" not in caplog.text


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.7},
        {"top_k": 7},
        {"top_k": 1},
        {"top_p": 0.9},
        {"top_p": 0.2},
        {"min_p": 0.05},
        {"repetition_penalty": 1.4},
        {"repetition_penalty": 0.6, "top_k": 9},
        {"temperature": 1.6, "top_k": 40, "top_p": 0.8, "min_p": 0.05, "repetition_penalty": 1.2},
        {"temperature": 0.3, "top_p": 0.95, "min_p": 0.3},
    ],
    ids=str,
)
def test_processed_logits_are_those_of_transformers(options):
    torch = pytest.importorskip("torch")
    process_module = pytest.importorskip("transformers.generation.logits_process")
    rng = np.random.default_rng(5)
    rows, text = 6, 12
    logits = (rng.normal(size=(rows, 100)) * 4).astype(np.float32)
    ids = rng.integers(0, 100, (rows, text))

    scores, input_ids = torch.tensor(logits), torch.tensor(ids)
    for name, value in _in_their_order(options):
        scores = getattr(process_module, name)(value)(input_ids, scores)
    seen = np.zeros(logits.shape, bool)
    np.put_along_axis(seen, ids, True, axis=1)
    arrays = stack([SamplingOptions(**{"temperature": 1.0} | options)] * rows)
    got = process(logits, arrays, held(logits.shape, seen=seen))

    want = scores.numpy()
    np.testing.assert_array_equal(np.isinf(got), np.isinf(want))
    np.testing.assert_allclose(jax.nn.softmax(got), torch.softmax(scores, -1), atol=1e-6)


def _in_their_order(options):
    """The order of transformers' GenerationMixin._get_logits_processor."""
    processors = {
        "repetition_penalty": "RepetitionPenaltyLogitsProcessor",
        "temperature": "TemperatureLogitsWarper",
        "top_k": "TopKLogitsWarper",
        "top_p": "TopPLogitsWarper",
        "min_p": "MinPLogitsWarper",
    }
    return [(name, options[key]) for key, name in processors.items() if key in options]


def test_no_rows_stack_too():
    empty = stack([])
    assert isinstance(empty, SamplingArrays)
    assert [leaf.shape for leaf in jax.tree.leaves(empty)] == [(0,)] * 8 + [(0, MAX_BIASES)] * 2 + [
        (0, 2)
    ]
