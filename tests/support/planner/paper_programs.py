"""The paper's configs, planned once per test process for the H100 clusters they are meant for."""

import math
from functools import cache

from support.places import CONFIGS

from moe_jax.config import check, load_config
from moe_jax.hardware.gpus import gpu_by_name
from moe_jax.planner.compile.jobs import Compiled, compile_for
from moe_jax.planner.compile.target import Target
from moe_jax.planner.planning import Request, make_job, make_plan
from moe_jax.planner.report.figures import Mode
from moe_jax.planner.report.results import Plan


def request(name: str, mode: Mode, *overrides: str) -> Request:
    config = load_config(CONFIGS / f"{name}.toml", overrides)
    devices = math.prod(config.mesh.model_dump().values())
    check(config, devices)
    return Request(config, Target(gpu_by_name("h100"), devices // 8, 8), mode)


@cache
def compiled(name: str, mode: Mode, *overrides: str) -> Compiled:
    asked = request(name, mode, *overrides)
    return compile_for(asked.target, make_job(asked))


@cache
def planned(name: str, mode: Mode, *overrides: str) -> Plan:
    return make_plan(request(name, mode, *overrides), compiled(name, mode, *overrides))
