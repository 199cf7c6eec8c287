"""Our layer as a model calls it: router, exchange, experts, and the counts that a step reports."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec

from moe_jax.bench.rivals.hashed import jax_maker
from moe_jax.bench.rivals.layers.inputs import jax_inputs
from moe_jax.bench.rivals.problem import LayerProblem
from moe_jax.bench.rivals.trial import JaxTrial
from moe_jax.config import Config, check, override
from moe_jax.config.schema import MeshConfig
from moe_jax.mesh.build import build_mesh
from moe_jax.mesh.xla_options import compiler_options
from moe_jax.model.parallel import resolve_parallel
from moe_jax.moe.layer import MoeLayer
from moe_jax.sharding.rules import BATCH
from moe_jax.sharding.spmd import on_device_shards


def layer_config(problem: LayerProblem, overrides: Sequence[str] = ()) -> Config:
    """Return the config of one layer on one device, checked.

    Args:
        problem: gives sizes and dtype.
        overrides: of what the problem leaves open: "exchange.capacity_factor=1".

    Raises:
        UserError: an override is none, or does not suit the rest.
    """
    normalize = "selected" if problem.normalize else "all"
    settings = [
        f"model.d_model={problem.d}",
        f"model.moe.num_experts={problem.experts}",
        f"model.moe.top_k={problem.top_k}",
        f"model.moe.d_ff={problem.f}",
        "model.moe.activation=swiglu",
        f"model.moe.router.normalize_over={normalize}",
        "model.num_layers=1",
        f"precision.params={problem.dtype}",
        f"precision.compute={problem.dtype}",
        "precision.master=none",
        f"data.sequence_length={problem.tokens}",
        "train.global_batch=1",
        "train.loss_chunk=1",
    ]
    config = override(Config(), [*settings, *overrides])
    check(config)
    return config


def our_layer(problem: LayerProblem, routing: str, overrides: Sequence[str]) -> JaxTrial:
    """Return our layer, ready to run on the first device of this process.

    Args:
        problem: sizes and dtype.
        routing: who goes where.
        overrides: of the config, see `layer_config`.
    """
    config = layer_config(problem, overrides)
    platform = jax.default_backend()
    mesh = build_mesh(MeshConfig(), jax.devices()[:1])
    exchange = resolve_parallel(
        config, mesh, platform=platform, hosts=(0,), batch_tokens=problem.tokens
    ).exchange
    graph, abstract = nnx.split(
        nnx.eval_shape(lambda: MoeLayer(config.model, config.precision, rngs=nnx.Rngs(0)))
    )

    def layer(state: nnx.State, x_td: jax.Array):
        def local(state, x_bsd):
            y_bsd, stats = nnx.merge(graph, state)(x_bsd, exchange)
            return y_bsd, jax.tree.map(lambda leaf: leaf[None], stats)

        mapped = on_device_shards(
            local, mesh, in_specs=(PartitionSpec(), BATCH), out_specs=(BATCH, BATCH)
        )
        y_bsd, stats = mapped(state, x_td[None])
        return y_bsd[0], stats

    def both(state: nnx.State, x_td: jax.Array, dy_td: jax.Array):
        y_td, pull, stats = jax.vjp(layer, state, x_td, has_aux=True)
        return y_td, pull(dy_td), stats

    x_td, dy_td = jax_inputs(problem, routing)
    state = jax.jit(lambda: _filled(abstract, problem))()
    program = jax.jit(both, compiler_options=compiler_options(platform))
    seen = {}

    def call() -> dict[str, jax.Array]:
        y_td, (grads, dx_td), seen["stats"] = program(state, x_td, dy_td)
        named = {"_".join(map(str, path)): leaf for path, leaf in _leaves(grads)}
        return {
            "y": y_td,
            "dx": dx_td,
            "drouter": named["router_w_de"],
            "dgate": named["experts_w_gate_edf"],
            "dup": named["experts_w_up_edf"],
            "ddown": named["experts_w_down_efd"],
        }

    def counts() -> dict[str, int]:
        stats = seen["stats"].exchange
        return {
            "dropped": int(stats.rows_dropped.sum()),
            "padded": int(stats.rows_padded.sum()),
        }

    return JaxTrial(call, counts)


def _leaves(state: nnx.State) -> list[tuple[tuple[str, ...], jax.Array]]:
    pure = nnx.to_pure_dict(state)
    return [
        (tuple(str(part.key) for part in path), leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(pure)[0]
    ]


def _filled(abstract: nnx.State, problem: LayerProblem) -> nnx.State:
    """Return the layer's state with the problem's weights in it. Runs inside `jit`."""
    weights = problem.weights(jax_maker(problem.dtype))
    ours = {f"experts_w_{name}": array for name, array in weights.items()}
    ours["router_w_de"] = jnp.asarray(problem.router(), problem.dtype)

    def fill(path, leaf):
        name = "_".join(str(getattr(part, "key", "")) for part in path).rstrip("_")
        assert ours[name].shape == leaf.shape, (name, leaf.shape)
        return ours[name].astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, abstract)
