"""Cross-entropy in chunks against log-softmax of all logits at once."""

import jax
import numpy as np
import pytest
from support.model_cases import VOCAB, arrays, configured, parallel_of

from moe_jax.model.loss import cross_entropy_sum
from moe_jax.model.skeleton import Skeleton
from moe_jax.model.weights import Weights

STREAMS, ROWS, LENGTH, SIZE = 2, 8, 7, 16
RNG = np.random.default_rng(0)
HIDDEN = RNG.normal(size=(STREAMS, ROWS, LENGTH, SIZE)).astype(np.float32)
TARGETS = RNG.integers(0, VOCAB, size=(STREAMS, ROWS, LENGTH)).astype(np.int32)
WEIGHTS = RNG.uniform(size=TARGETS.shape).astype(np.float32) * (
    RNG.uniform(size=TARGETS.shape) > 0.3
)
WEIGHTS = WEIGHTS.astype(np.float32)


def loss_function(chunk: int, *overrides: str):
    """Returns jitted (params, hidden, targets, weights) -> sum of losses, on the config's mesh."""
    config = configured('model.layers=["dense"]', "model.num_layers=1", *overrides)
    skeleton, parallel = Skeleton(config), parallel_of(config)

    def function(params, hidden, targets, weights):
        model = skeleton.merge(Weights(params, {}))
        return cross_entropy_sum(model, tuple(hidden), targets, weights, parallel, chunk)

    return function, arrays(skeleton).params


def value_and_grads(chunk: int, *overrides: str):
    function, params = loss_function(chunk, *overrides)
    compiled = jax.jit(jax.value_and_grad(function, argnums=(0, 1)))
    value, (grads, grad_hidden) = compiled(params, HIDDEN, TARGETS, WEIGHTS)
    used = {name: grad for name, grad in grads.items() if not name.startswith("stacks")}
    return float(value), jax.tree.map(np.asarray, (used, grad_hidden))


def by_hand(params) -> float:
    x = HIDDEN.astype(np.float64)
    x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * params["head.norm.scale"]
    logits = x @ params["head.output.w_vd"].T.astype(np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    picked = np.take_along_axis(log_probs, TARGETS[..., None], axis=-1)[..., 0]
    return float(-(WEIGHTS * picked).sum())


@pytest.mark.parametrize("chunk", [1, 3, 4, 7, 1024])
def test_chunks_of_any_size_give_the_direct_sum(chunk):
    """3 and 4 do not divide the length of 7."""
    function, params = loss_function(chunk)
    value = jax.jit(function)(params, HIDDEN, TARGETS, WEIGHTS)
    assert float(value) == pytest.approx(by_hand(params), rel=1e-5)


@pytest.mark.parametrize(
    ("chunk", "overrides"),
    [
        (3, ()),
        pytest.param(3, ("mesh.expert=8",), marks=pytest.mark.slow),
        (3, ("model.tie_embeddings=tied",)),
    ],
)
def test_gradients_are_those_of_one_chunk_on_one_device(chunk, overrides):
    value, grads = value_and_grads(chunk, *overrides)
    whole = value_and_grads(LENGTH, *(o for o in overrides if "mesh" not in o))
    assert value == pytest.approx(whole[0], rel=1e-5)
    for got, want in zip(jax.tree.leaves(grads), jax.tree.leaves(whole[1]), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_tokens_of_weight_0_count_nothing():
    function, params = loss_function(3)
    compiled = jax.jit(function)
    other = np.where(WEIGHTS == 0, (TARGETS + 1) % VOCAB, TARGETS).astype(np.int32)
    assert (other != TARGETS).any()
    values = [float(compiled(params, HIDDEN, ids, WEIGHTS)) for ids in (TARGETS, other)]
    assert values[0] == values[1]


def test_only_one_chunk_of_logits_exists_at_a_time():
    function, params = loss_function(3)
    grad = jax.grad(function, argnums=(0, 1))
    text = jax.jit(grad).lower(params, HIDDEN, TARGETS, WEIGHTS).as_text()
    rows = STREAMS * ROWS
    assert f"tensor<{rows}x3x{VOCAB}xf32>" in text
    assert f"x{LENGTH}x{VOCAB}xf32>" not in text
