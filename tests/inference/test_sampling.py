"""Sampling against NumPy: greedy, temperature, top-k, top-p, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe_jax.inference.sampling import SamplingOptions, sample

DRAWS = 4096
LOGITS = np.array([1.0, 3.0, 2.0, -1.0, 2.5, 0.0, -4.0, 1.5], np.float32)


def draw(logits, **options):
    """Returns DRAWS independent tokens."""
    rows = jnp.tile(jnp.asarray(logits), (DRAWS, 1))
    return np.asarray(sample(rows, jax.random.key(0), SamplingOptions(**options)))


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
    rows = jnp.array([[0.0, 2.0, 1.0], [5.0, 1.0, 5.0], [-3.0, -2.0, -1.0]])
    options = SamplingOptions(temperature=0, top_k=1, top_p=0.1)
    assert sample(rows, jax.random.key(0), options).tolist() == [1, 0, 2]


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


@pytest.mark.parametrize(("top_k", "nucleus"), [(4, [1, 2, 4]), (3, [1, 4])])
def test_top_p_judges_what_temperature_and_top_k_left(top_k, nucleus):
    """Without the temperature it would keep 2 tokens, without top-k 3."""
    assert [len(kept_by_top_p(logits, 0.65)) for logits in (LOGITS, LOGITS / 2)] == [2, 3]
    tokens = draw(LOGITS, temperature=2.0, top_k=top_k, top_p=0.65)
    assert_drawn_from(tokens, restricted(LOGITS, nucleus, temperature=2.0))


def test_excluded_tokens_stay_excluded():
    logits = np.where(np.arange(8) < 3, LOGITS, -np.inf).astype(np.float32)
    for options in ({"top_k": 5}, {"top_p": 0.999}, {}):
        assert draw(logits, temperature=1.0, **options).max() < 3


def test_rows_draw_independently_and_a_key_decides_all():
    rows = jnp.zeros((64, 1000))
    options = SamplingOptions(temperature=1.0)
    first = sample(rows, jax.random.key(1), options)
    assert len(set(first.tolist())) > 40
    np.testing.assert_array_equal(first, sample(rows, jax.random.key(1), options))
    assert (first != sample(rows, jax.random.key(2), options)).any()


@pytest.mark.parametrize(
    ("option", "value"),
    [("temperature", -0.1), ("top_k", -1), ("top_p", 0.0), ("top_p", 1.5)],
)
def test_value_out_of_range_is_refused_by_name(option, value):
    with pytest.raises(ValueError, match=rf"{option} \({value}\) must be"):
        SamplingOptions(**{option: value})
