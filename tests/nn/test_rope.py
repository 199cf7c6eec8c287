"""Rotary positions against complex rotations, and scaled frequencies against published formulas."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from moe_jax.config.model_schema import RopeConfig
from moe_jax.nn.rope import frequencies, rotate

HEAD_DIM = 16
X = np.random.default_rng(0).normal(size=(2, 5, 3, HEAD_DIM)).astype(np.float32)
POSITIONS = np.array([[0, 1, 2, 3, 4], [7, 8, 0, 1, 900]], np.int32)


def plain(theta: float) -> list[float]:
    return [1 / theta ** (2 * i / HEAD_DIM) for i in range(HEAD_DIM // 2)]


def llama3(config: RopeConfig) -> list[float]:
    """Llama 3.1's three bands of wavelengths."""
    scaled = []
    for frequency in plain(config.theta):
        wavelength = 2 * math.pi / frequency
        if wavelength > config.original_context / config.low_freq_factor:
            scaled.append(frequency / config.factor)
        elif wavelength < config.original_context / config.high_freq_factor:
            scaled.append(frequency)
        else:
            smooth = config.original_context / wavelength - config.low_freq_factor
            smooth /= config.high_freq_factor - config.low_freq_factor
            scaled.append((1 - smooth) * frequency / config.factor + smooth * frequency)
    return scaled


def yarn(config: RopeConfig) -> list[float]:
    """NTK-by-parts over dimensions, the ramp between beta_fast and beta_slow turns."""

    def dimension(turns: float) -> float:
        context = config.original_context
        return HEAD_DIM * math.log(context / (2 * math.pi * turns)) / (2 * math.log(config.theta))

    low = max(math.floor(dimension(config.beta_fast)), 0)
    high = min(math.ceil(dimension(config.beta_slow)), HEAD_DIM - 1)
    scaled = []
    for i, frequency in enumerate(plain(config.theta)):
        interpolated = min(max((i - low) / (high - low), 0), 1)
        scaled.append(frequency / config.factor * interpolated + frequency * (1 - interpolated))
    return scaled


def turned(inv_freq: list[float], x: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Each pair (i, i + m/2) as a complex number times exp(i position frequency)."""
    half = HEAD_DIM // 2
    pairs = x[..., :half].astype(np.float64) + 1j * x[..., half:]
    pairs = pairs * np.exp(1j * positions[..., None, None] * np.asarray(inv_freq))
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


CASES = {
    "none": (RopeConfig(), plain(10000.0), 1.0),
    "theta": (RopeConfig(theta=500.0), plain(500.0), 1.0),
    "linear": (
        RopeConfig(scaling="linear", factor=4.0),
        [frequency / 4 for frequency in plain(10000.0)],
        1.0,
    ),
}
for _name, _config, _reference in (
    ("llama3", RopeConfig(scaling="llama3", factor=8.0, original_context=256), llama3),
    ("llama3-8192", RopeConfig(scaling="llama3", factor=8.0, theta=5e5), llama3),
    ("yarn", RopeConfig(scaling="yarn", factor=8.0, original_context=256), yarn),
    ("yarn-4096", RopeConfig(scaling="yarn", factor=16.0), yarn),
):
    _temperature = 0.1 * math.log(_config.factor) + 1 if _config.scaling == "yarn" else 1.0
    CASES[_name] = (_config, _reference(_config), _temperature)


@pytest.mark.parametrize(("config", "inv_freq", "factor"), CASES.values(), ids=CASES.keys())
def test_rotation_and_frequencies_follow_the_published_formula(config, inv_freq, factor):
    got, temperature = frequencies(config, HEAD_DIM)
    np.testing.assert_allclose(got, inv_freq, rtol=1e-12)
    assert temperature == pytest.approx(factor)
    rotated = rotate(jnp.asarray(X), jnp.asarray(POSITIONS), config)
    wanted = factor * turned(inv_freq, X, POSITIONS)
    np.testing.assert_allclose(rotated, wanted, atol=2e-3 if POSITIONS.max() > 500 else 1e-5)
    # Small angles, where float32 is exact enough.
    np.testing.assert_allclose(rotated[0], wanted[0], atol=1e-5)


def test_scaling_kinds_cover_all_three_bands():
    """Otherwise the formulas above would be compared on one branch only."""
    bands = np.asarray(CASES["llama3"][1]) / plain(10000.0)
    assert bands[0] == 1.0
    assert bands[-1] == pytest.approx(1 / 8)
    assert ((bands > 1 / 8 + 1e-6) & (bands < 1 - 1e-6)).any()
    ramp = np.asarray(CASES["yarn"][1]) / plain(10000.0)
    assert ramp[0] == 1.0
    assert ramp[-1] == pytest.approx(1 / 8)
    assert ((ramp > 1 / 8 + 1e-6) & (ramp < 1 - 1e-6)).any()


def test_scores_depend_on_the_distance_only():
    q, k = jnp.asarray(X[:1]), jnp.asarray(X[1:])
    positions = jnp.asarray(POSITIONS[:1])

    def scores(shift: int):
        turned_q = rotate(q, positions + shift, RopeConfig())
        turned_k = rotate(k, positions + shift, RopeConfig())
        return jnp.einsum("bshm,bthm->bhst", turned_q, turned_k)

    np.testing.assert_allclose(scores(0), scores(37), atol=2e-4)


def test_dtype_is_kept():
    x = jnp.asarray(X, jnp.bfloat16)
    assert rotate(x, jnp.asarray(POSITIONS), RopeConfig()).dtype == jnp.bfloat16
