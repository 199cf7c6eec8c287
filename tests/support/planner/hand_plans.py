"""Plans made by hand for the paper's programs: no compile, figures that are easy to reckon with."""

from support.places import CONFIGS
from support.planner.hand_schedules import MS, dump

from moe_jax.config import load_config
from moe_jax.planner.claims.report import programs
from moe_jax.planner.planning import Request
from moe_jax.planner.report.figures import (
    NO_TIME,
    LinkBytes,
    Memory,
    MemoryPart,
    Nic,
    Pass,
    Predicted,
    Step,
    Times,
)
from moe_jax.planner.report.results import Plan
from moe_jax.planner.xla.timeline import parse_timelines

PAPER = load_config(CONFIGS / "paper_ep16.toml")
GB = 10**9
LINE = 50e9


def layer(exposed_ms: float):
    """100 ms of compute, and an all-to-all of 40 ms of which `exposed_ms` is exposed."""
    hidden = 40 - exposed_ms
    events = (
        ("a2a-start.4", 0, 0),
        ("gemm_fusion.1", 0, hidden * MS),
        ("a2a-done.4", 40 * MS, 40 * MS),
        ("gemm_fusion.2", 40 * MS, (140 - hidden) * MS),
    )
    return parse_timelines(dump(*events))


def times(total_s: float) -> Times:
    return Times(total_s, *6 * (0.0,))


def hand_plan(
    request: Request,
    *,
    peak_gb: float = 12,
    state_gb: float = 4,
    exposed_ms: float = 4,
    over_step: float = 0.2,
    slower: int = 1,
) -> Plan:
    """A plan whose step is its layers alone, all exposing as much, `slower` times."""
    layers = request.config.model.num_layers * slower
    timelines = layer(exposed_ms)
    layer_s = timelines[0].total_us / 1e6
    whole = times(layers * layer_s)
    tokens = request.config.train.global_batch * request.config.data.sequence_length
    parts = (
        MemoryPart("parameters", int(state_gb * GB)),
        MemoryPart("activations", int((peak_gb - state_gb) * GB)),
    )
    peak = int(peak_gb * GB)
    return Plan(
        config=request.config,
        target=request.target,
        mode=request.mode,
        memory=Memory("compiled", peak, peak, 80 * GB, parts),
        step=Step("modelled", Pass(times(layer_s), whole), None, NO_TIME, whole),
        wire=LinkBytes(
            "compiled", 1e9, 2e9, 1.0, 2.0, 1e9, None, Nic("modelled", LINE, 0.75, over_step)
        ),
        collectives=(),
        predicted=Predicted("modelled", whole.total_s, tokens / whole.total_s, 300.0, 0.3),
        assumptions=("made by hand",),
        versions={"jax": "0"},
        timelines=timelines,
    )


def paper_plans() -> dict[str, Plan]:
    """Plans of all the programs that the claims are about."""
    found = programs(PAPER)
    plans = {name: hand_plan(request) for name, request in found.requests.items()}
    for name in (found.experts["EP128"], *found.replicas.values()):
        plans[name] = hand_plan(found.requests[name], exposed_ms=24)
    plans[found.train] = hand_plan(found.requests[found.train], peak_gb=70, state_gb=35)
    for (baseline, _), name in found.baselines.items():
        slower = {"naive": 4, "tuned": 2}[baseline]
        plans[name] = hand_plan(found.requests[name], slower=slower)
    plans[found.other_layers] = hand_plan(found.requests[found.other_layers], peak_gb=6, state_gb=1)
    return plans
