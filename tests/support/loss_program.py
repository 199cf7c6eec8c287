"""The loss of one H100's hidden states and its gradients, compiled for it. No tests here."""

from functools import cache

import jax
import jax.numpy as jnp
from support.places import CONFIGS
from support.planner.compiles import compile_for

from moe_jax.config import load_config
from moe_jax.config.schema import MeshConfig
from moe_jax.hardware.gpus import gpu_by_name
from moe_jax.model.loss import cross_entropy_sum
from moe_jax.model.parallel import resolve_parallel
from moe_jax.model.skeleton import Skeleton
from moe_jax.model.weights import Weights
from moe_jax.planner.compile.jobs import CompileJob
from moe_jax.planner.compile.target import Target

ROWS, LENGTH, CHUNK, VOCAB = 4, 1024, 256, 6400
SIZES = (
    "model.num_layers=1",
    "model.d_model=512",
    f"model.vocab_size={VOCAB}",
    f"data.sequence_length={LENGTH}",
    f"train.global_batch={ROWS}",
    "mesh.expert=1",
    "exchange.streams=1",
    "precision.params=float32",
)


@cache
def compiled_gradient() -> str:
    """The scheduled HLO."""
    target = Target(gpu_by_name("h100"), hosts=1, devices_per_host=1)
    job = CompileJob("support.loss_program:gradient", MeshConfig(expert=1))
    return compile_for(target, job).hlo_text


def gradient(mesh):
    config = load_config(CONFIGS / "olmoe_1b_7b.toml", SIZES)
    skeleton = Skeleton(config)
    parallel = resolve_parallel(
        config, mesh, platform="gpu", hosts=(0,), batch_tokens=ROWS * LENGTH
    )

    def loss(params, x_bsd, targets, weights):
        model = skeleton.merge(Weights(params, {}))
        return cross_entropy_sum(model, (x_bsd,), targets, weights, parallel, CHUNK)

    x_bsd = jax.ShapeDtypeStruct((ROWS, LENGTH, config.model.d_model), jnp.bfloat16)
    targets, weights = (
        jax.ShapeDtypeStruct((1, ROWS, LENGTH), dtype) for dtype in (jnp.int32, jnp.float32)
    )
    arguments = (skeleton.abstract(mesh).params, x_bsd, targets, weights)
    return jax.jit(jax.grad(loss, argnums=(0, 1))), arguments
