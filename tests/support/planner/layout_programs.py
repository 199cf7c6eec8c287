"""A small model in the layouts whose collectives are checked, compiled for H100s. No tests here."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from support.planner.compiles import compile_for
from support.planner.small_programs import PAPER

from moe_jax.axes import EXPERT
from moe_jax.config import Config, load_config
from moe_jax.config.schema import MeshConfig
from moe_jax.hardware.gpus import gpu_by_name
from moe_jax.planner.compile.jobs import CompileJob
from moe_jax.planner.compile.target import Target
from moe_jax.planner.planning import Request, make_job

TARGET = Target(gpu_by_name("h100"), hosts=2, devices_per_host=4)
#: Sizes that tell apart the arrays that move.
SIZES = (
    "mesh.expert=1",
    "model.num_layers=2",
    "model.d_model=256",
    "model.vocab_size=768",
    "model.attention.heads=8",
    "model.attention.kv_heads=8",
    "model.attention.head_dim=64",
    "model.moe.num_experts=8",
    "model.moe.d_ff=1024",
    "data.sequence_length=512",
    "exchange.streams=2",
    "train.global_batch=32",
    "train.loss_chunk=128",
)
#: Further rounds stand in branches, which do not count: one layout with them is enough.
DROP = "exchange.overflow=drop"
TENSOR = ("mesh.data=2", "mesh.tensor=4", "exchange.transport=local", "exchange.streams=1", DROP)
FSDP = ("mesh.fsdp=2", "mesh.expert=4", "sharding.dense=fsdp_expert", DROP)
LAYOUTS: dict[str, tuple[str, ...]] = {
    "expert": ("mesh.expert=8",),
    "data x expert": ("mesh.data=2", "mesh.expert=4", DROP),
    "fsdp x expert": FSDP,
    "fsdp x expert, everything kept": (*FSDP, "train.remat=none"),
    "tensor": TENSOR,
    "tensor, whole sequences": (*TENSOR, "sharding.sequence=whole"),
    "expert x tensor": ("mesh.expert=4", "mesh.tensor=2", DROP),
    "pipe x expert": (
        "model.num_layers=4",
        "mesh.pipe=2",
        "mesh.expert=4",
        "pipeline.microbatches=2",
        DROP,
    ),
}


def config(layout: str) -> Config:
    return load_config(PAPER, (*SIZES, *LAYOUTS[layout]))


@cache
def training_step(layout: str) -> str:
    """The scheduled HLO of a layout's training step."""
    job = make_job(Request(config(layout), TARGET, "train").prepared())
    return compile_for(TARGET, job).hlo_text


@cache
def surprising_step() -> str:
    """The scheduled HLO of a program in which XLA gathers activations that nobody asked it to."""
    return compile_for(
        TARGET, CompileJob("support.planner.layout_programs:compares_its_batch", SURPRISED)
    ).hlo_text


SURPRISED = MeshConfig(expert=8)
#: Of the activations that `compares_its_batch` gathers, whole.
SURPRISE_BYTES = 64 * 512 * 2


def compares_its_batch(mesh: Mesh) -> tuple[Any, tuple]:
    """Every row with every other: the compiler has to bring the split batch together."""
    split = NamedSharding(mesh, PartitionSpec(EXPERT))
    x = jax.ShapeDtypeStruct((64, 512), jnp.bfloat16, sharding=split)
    return jax.jit(lambda x: x @ x.T, out_shardings=split), (x,)
