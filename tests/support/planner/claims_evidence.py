"""Evidence for the paper's claims, of plans made by hand."""

from support.planner.hand_plans import PAPER, paper_plans

from moe_jax.planner.claims.paper import Evidence
from moe_jax.planner.claims.report import programs


def evidence(**changed):
    found = programs(PAPER)
    plans = paper_plans() | changed
    return Evidence(
        PAPER,
        plans,
        found.experts,
        found.replicas,
        found.train,
        found.other_layers,
        found.baselines,
    )
