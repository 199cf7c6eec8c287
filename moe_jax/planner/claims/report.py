"""The paper's claims, checked: which programs to compile, and the report of what came out.

The checks themselves are `size.py`, `speed.py` and `speedup.py`, how the report
looks is `table.py`, the command `cli/claims.py`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from moe_jax.config import Config, override
from moe_jax.errors import UserError
from moe_jax.hardware.calibration import Calibration
from moe_jax.hardware.gpus import gpu_by_name
from moe_jax.planner.claims.baselines import BASELINES, baseline_config
from moe_jax.planner.claims.findings import Claim
from moe_jax.planner.claims.paper import Evidence, other_layers
from moe_jax.planner.claims.size import check_buffer, check_layers, check_memory, check_parameters
from moe_jax.planner.claims.speed import check_scaling, check_utilisation
from moe_jax.planner.claims.speedup import check_latency, check_throughput
from moe_jax.planner.compile.target import Target
from moe_jax.planner.planning import Request, plan_all
from moe_jax.planner.report.figures import Mode
from moe_jax.planner.report.results import Plan
from moe_jax.planner.search.scaling import scaled

#: The paper's cluster.
GPU, DEVICES_PER_HOST = "h100", 8
#: Its cluster sizes over the smallest: EP16, 32, 64, 128; and the one of 16 experts in 8 replicas.
SIZES, REPLICAS = (1, 2, 4, 8), 8
#: Modes in which baselines are compared: of latency and of throughput.
_COMPARED: tuple[Mode, ...] = ("forward", "train")

CHECKS = (
    check_layers,
    check_parameters,
    check_buffer,
    check_memory,
    check_throughput,
    check_latency,
    check_scaling,
    check_utilisation,
)


@dataclass(frozen=True)
class Programs:
    """The programs to compile, by name, and what each of them is for; see `paper.Evidence`."""

    requests: Mapping[str, Request]
    experts: Mapping[str, str]
    replicas: Mapping[str, str]
    train: str
    other_layers: str
    baselines: Mapping[tuple[str, Mode], str]


@dataclass(frozen=True)
class ClaimsReport:
    """Every claim, and the plans that its findings rest on, by name."""

    claims: tuple[Claim, ...]
    plans: Mapping[str, Plan]

    def to_json(self) -> dict[str, Any]:
        """Return plain values; plans by name only, as each has a JSON of its own."""
        claims = [asdict(claim) for claim in self.claims]
        return {"claims": claims, "plans": list(self.plans)}


def check_claims(config: Config, calibration: Calibration | None = None) -> ClaimsReport:
    """Compile what the claims are about, and check each.

    Args:
        config: the paper's smallest, `configs/paper_ep16.toml`, perhaps with overrides; the other
            cluster sizes are made from it.
        calibration: measured rates of the paper's GPU.

    Raises:
        UserError: the config is no multiple of 16 devices, or cannot be scaled or compared.
        PlanExtraMissing: with the line that installs what is missing.
    """
    found = programs(config)
    made = plan_all(tuple(found.requests.values()), calibration=calibration)
    plans = dict(zip(found.requests, made, strict=True))
    return report(config, found, plans, calibration)


def programs(config: Config) -> Programs:
    """What is to be compiled: forward for all sizes in both readings of scaling, forward with
    the other number of layers, the training step, and both of each baseline.

    Raises:
        UserError: the devices do not fill hosts of 8.
    """
    mesh = config.mesh
    devices = mesh.pipe * mesh.data * mesh.fsdp * mesh.expert * mesh.tensor
    requests: dict[str, Request] = {}

    def add(program: Config, mode: Mode, size: int = 1) -> str:
        name = f"{program.name}.{mode}"
        requests[name] = Request(program, _target(devices * size), mode)
        return name

    experts = {
        f"EP{mesh.expert * size}": add(
            config if size == 1 else scaled(config, devices * size, "experts"), "forward", size
        )
        for size in SIZES
    }
    copies = scaled(config, devices * REPLICAS, "replicas")
    replicas = {f"EP{mesh.expert} x {REPLICAS}": add(copies, "forward", REPLICAS)}
    n = other_layers(config)
    other = override(config, [f"model.num_layers={n}", f"name={config.name}_{n}_layers"])
    of_other = add(other, "forward")
    train = add(config, "train")
    baselines = {
        (baseline.name, mode): add(baseline_config(config, baseline), mode)
        for baseline in BASELINES
        for mode in _COMPARED
    }
    return Programs(requests, experts, replicas, train, of_other, baselines)


def report(
    config: Config,
    found: Programs,
    plans: Mapping[str, Plan],
    calibration: Calibration | None = None,
) -> ClaimsReport:
    """Check every claim with plans of `programs(config)`."""
    evidence = Evidence(
        config=config,
        plans=plans,
        experts=found.experts,
        replicas=found.replicas,
        train=found.train,
        other_layers=found.other_layers,
        baselines=found.baselines,
        calibration=calibration,
    )
    return ClaimsReport(tuple(check(evidence) for check in CHECKS), plans)


def _target(devices: int) -> Target:
    hosts, rest = divmod(devices, DEVICES_PER_HOST)
    if rest or not hosts:
        raise UserError(
            f"the paper's hosts have {DEVICES_PER_HOST} devices each and the mesh has {devices}: "
            f"use paper_ep16.toml, or a mesh of a multiple of {DEVICES_PER_HOST} devices"
        )
    return Target(gpu_by_name(GPU), hosts, DEVICES_PER_HOST)
