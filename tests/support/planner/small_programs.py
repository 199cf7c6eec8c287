"""A small model on 2 x 2 GPUs with all that the paper's has: streams, rounds, scanned layers."""

from functools import cache

from support.places import CONFIGS

from moe_jax.config import Config, load_config
from moe_jax.hardware.gpus import gpu_by_name
from moe_jax.planner.compile.jobs import Compiled, compile_all
from moe_jax.planner.compile.target import Target
from moe_jax.planner.planning import Request, make_job
from moe_jax.planner.report.figures import Mode

TARGET = Target(gpu_by_name("h100"), hosts=2, devices_per_host=2)
PAPER = CONFIGS / "paper_ep16.toml"
OVERRIDES = (
    "name=small",
    "mesh.expert=4",
    "model.num_layers=2",
    "model.d_model=256",
    "model.vocab_size=512",
    "model.attention.heads=4",
    "model.attention.kv_heads=2",
    "model.attention.head_dim=64",
    "model.moe.num_experts=4",
    "model.moe.d_ff=1024",
    "data.sequence_length=512",
    "exchange.streams=2",
    "train.global_batch=8",
    "train.loss_chunk=128",
)
MODES: tuple[Mode, ...] = ("forward", "train", "decode")


def config() -> Config:
    return load_config(PAPER, OVERRIDES)


def request(mode: Mode) -> Request:
    return Request(config(), TARGET, mode).prepared()


@cache
def compiled() -> dict[Mode, Compiled]:
    """Every mode's program, compiled by one worker."""
    jobs = [make_job(request(mode)) for mode in MODES]
    return dict(zip(MODES, compile_all(TARGET, jobs), strict=True))
