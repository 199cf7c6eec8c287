"""Hand-made counts of two MoE layers, and a report of them. No tests here."""

import numpy as np

from moe_jax.config import Config, override
from moe_jax.moe.balance import BalanceSums
from moe_jax.moe.exchange.contract import ExchangeStats
from moe_jax.moe.layer import MoeStats
from moe_jax.training.reporting.device_memory import Memory
from moe_jax.training.reporting.reporter import make_report
from moe_jax.training.reporting.step_metrics import StepMetrics
from moe_jax.training.reporting.step_report import StepReport

CONFIG = override(
    Config(),
    [
        "mesh.expert=4",
        "data.sequence_length=32",
        "train.global_batch=8",
        "model.num_layers=2",
        "model.moe.num_experts=4",
        "model.moe.top_k=1",
        "precision.compute=bfloat16",
    ],
)


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def make_metrics(loss: float = 2.5, skipped: float = 0.0) -> StepMetrics:
    """Returns 256 tokens, top-1: the first layer even, the second with one hot expert."""
    load_le = np.array([[64, 64, 64, 64], [160, 32, 32, 32]], np.float32)
    balance = BalanceSums(load_le, load_le, f32(256, 256), f32(0, 0), f32(0, 0), f32(8, 8))
    exchange = ExchangeStats(
        load_e=load_le,
        rows_sent=f32(256, 250),
        rows_padded=f32(64, 10),
        rows_dropped=f32(0, 6),
        # 4 devices, each of which saw one round more in the second layer.
        overflow_rounds=f32(0, 4),
        rows_off_device=f32(192, 128),
        rows_off_host=f32(128, 0),
    )
    scalars = f32(loss, 0.01, 1.5, 3e-4, skipped)
    return StepMetrics(*scalars, stats=MoeStats(balance, exchange))


def make_step_report(step: int = 10, metrics: StepMetrics | None = None, **changes) -> StepReport:
    arguments = {
        "seconds": 0.5,
        "seconds_per_step": 0.25,
        "skipped_total": 2,
        "config": CONFIG,
        "peak_flops": None,
        "memory": Memory(1.25, "process"),
    }
    return make_report(step, 100, metrics or make_metrics(), **(arguments | changes))
