"""Models of the paper's configs on 2 hosts, part by part. No tests here."""

from support.places import CONFIGS

from moe_jax.config import load_config, override
from moe_jax.hardware.rates import Rates, rates_for
from moe_jax.model.pattern import LayerSpec
from moe_jax.planner.compile.hardware_file import known_hardware
from moe_jax.planner.modelled.compute import LayerCompute
from moe_jax.planner.modelled.layer_time import LayerModel
from moe_jax.planner.modelled.per_device import Share
from moe_jax.planner.report.figures import Mode

MOE = LayerSpec("moe", 0)
NAIVE, TUNED = "paper_baseline_tp8_pp2", "paper_baseline_tuned"


def share_of(*changes: str, mode: Mode = "train", name: str = "paper_ep16") -> Share:
    return Share(override(load_config(CONFIGS / f"{name}.toml"), changes), mode)


def layer_model(
    *changes: str,
    mode: Mode = "train",
    name: str = "paper_ep16",
    hosts: int = 2,
    skew: float = 0.0,
    rates: Rates | None = None,
) -> LayerModel:
    target = known_hardware().target("h100", hosts, 8)
    compute = LayerCompute(share_of(*changes, mode=mode, name=name), rates or rates_for(target.gpu))
    return LayerModel(compute, target.topology, skew)
