"""Cross-entropy in chunks against log-softmax of all logits at once."""

import re
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import loss_program
from support.exchange.jaxprs import equations_of
from support.model_cases import VOCAB, arrays, configured, parallel_of

from moe_jax.config import Config
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


@dataclass(frozen=True)
class Direct:
    """All logits at once, in float32 and in plain `jax.numpy`, differentiated by JAX."""

    config: Config
    ids: jax.Array
    weights: jax.Array

    def __call__(self, params, hidden):
        model = self.config.model
        x = hidden.astype(jnp.float32)
        x = x / jnp.sqrt((x**2).mean(axis=-1, keepdims=True) + model.norm_eps)
        table = {"tied": "embedding.w_vd", "untied": "head.output.w_vd"}[model.tie_embeddings]
        logits = (x * params["head.norm.scale"]) @ params[table].T
        logits = (logits + params.get("head.b_v", 0.0)) / model.logit_divisor
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), self.ids[..., None], axis=-1)
        return -(self.weights * picked[..., 0]).sum()


def relative_error(got, want) -> float:
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


HEAD = ("model.head_bias=per_token", "model.logit_divisor=3.0")
TENSOR = ("mesh.tensor=2", "mesh.expert=1", "model.vocab_size=32")
WHOLE = ("sharding.sequence=whole",)
FSDP = ("mesh.fsdp=4", "sharding.dense=fsdp_expert")


@pytest.mark.parametrize(
    ("overrides", "tolerance"),
    [
        (HEAD, 1e-5),
        ((*HEAD, "model.tie_embeddings=tied"), 1e-5),
        ((*TENSOR, *HEAD), 1e-5),
        ((*TENSOR, *HEAD, *WHOLE, "model.tie_embeddings=tied"), 1e-5),
        pytest.param((*TENSOR, *WHOLE, "mesh.fsdp=2"), 1e-5, marks=pytest.mark.slow),
        (FSDP, 1e-5),
        pytest.param((*FSDP, *TENSOR, *HEAD), 1e-5, marks=pytest.mark.slow),
        (("precision.compute=bfloat16", *HEAD), 1e-2),
        (("precision.compute=bfloat16", "precision.params=bfloat16", *TENSOR), 1e-2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_values_and_gradients_are_those_of_all_logits_at_once(overrides, tolerance):
    """2 streams; sequences of 10 in 3 chunks of 4, the last of which overlaps; also split."""
    config = configured('model.layers=["dense"]', "model.num_layers=1", *overrides)
    skeleton, parallel = Skeleton(config), parallel_of(config)
    rng = np.random.default_rng(1)
    shape = (STREAMS, ROWS, 10)
    hidden = jnp.asarray(rng.normal(size=(*shape, SIZE)), config.precision.compute)
    ids = jnp.asarray(rng.integers(0, config.model.vocab_size, size=shape), jnp.int32)
    weights = jnp.asarray(rng.uniform(size=shape), jnp.float32)
    stored = {
        name: jnp.asarray(value, config.precision.params)
        for name, value in arrays(skeleton).params.items()
        if name.startswith(("head", "embedding"))
    }
    rest = {n: jnp.asarray(v) for n, v in arrays(skeleton).params.items() if n not in stored}

    def loss(params, hidden):
        model = skeleton.merge(Weights(rest | params, {}))
        # What a caller makes of the sum reaches all gradients.
        return 0.25 * cross_entropy_sum(model, tuple(hidden), ids, weights, parallel, 4)

    value, grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(stored, hidden)
    direct = jax.jit(jax.value_and_grad(Direct(config, ids, weights), argnums=(0, 1)))
    want, wanted = direct({n: v.astype(jnp.float32) for n, v in stored.items()}, hidden)
    assert float(value) == pytest.approx(0.25 * float(want), rel=tolerance)
    for name, grad in grads[0].items():
        assert grad.dtype == stored[name].dtype
        if name == "embedding.w_vd" and config.model.tie_embeddings == "untied":
            np.testing.assert_array_equal(grad, 0)
        else:
            assert relative_error(grad, 0.25 * wanted[0][name]) < tolerance, name
    assert grads[1].dtype == hidden.dtype
    assert relative_error(grads[1], 0.25 * wanted[1]) < tolerance


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


def logit_products(function, *arguments) -> int:
    """Counts the products that read or write logits, as JAX traced them."""
    return sum(
        str(eqn.primitive) == "dot_general"
        and any(VOCAB in v.aval.shape for v in (*eqn.invars, *eqn.outvars))
        for eqn in equations_of(jax.make_jaxpr(function)(*arguments))
    )


def test_logits_are_computed_once_and_evaluation_computes_no_gradient():
    function, params = loss_function(3)
    arguments = (params, HIDDEN, TARGETS, WEIGHTS)
    assert logit_products(function, *arguments) == 1
    # Logits, and the two gradients; all in the body of the scan.
    assert logit_products(jax.grad(function, argnums=(0, 1)), *arguments) == 3


@pytest.mark.compile_target
@pytest.mark.slow
def test_of_a_chunk_an_h100_writes_float32_logits_and_their_bfloat16_gradient_and_no_more():
    text, rows = loss_program.compiled_gradient(), loss_program.ROWS
    shape = rf"(?:{rows},{loss_program.CHUNK}|{rows * loss_program.CHUNK}),{loss_program.VOCAB}"
    # As the scheduler sees them: what stands inside a fusion is never written.
    written = re.findall(rf"= (\w+)\[{shape}\]\S* (?:fusion|custom-call|scatter)\(", text)
    assert sorted(written) == ["bf16", "f32"]
