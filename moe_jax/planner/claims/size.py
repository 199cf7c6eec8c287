"""The paper's claims about sizes: layers, parameters, input buffer, memory.

Claims about speed are `speed.py`; the claims' figures `paper.py`.
"""

from moe_jax.config import override
from moe_jax.model.flops import active_parameters, total_parameters
from moe_jax.planner.claims.findings import Claim, Finding, Point, Source, show
from moe_jax.planner.claims.paper import (
    BUFFER_BYTES,
    MEMORY_BYTES,
    Evidence,
    at_most,
    other_layers,
    within,
)
from moe_jax.planner.modelled.bounds import DTYPE_BYTES
from moe_jax.planner.report.results import Plan


def check_layers(e: Evidence) -> Claim:
    """16 or 4 layers: which of the two needs the memory that the paper reports?"""
    layers = e.config.model.num_layers
    other = other_layers(e.config)
    this, that = (e.read(name, "memory.peak_bytes") for name in (e.forward, e.other_layers))
    each = (this[0] - that[0]) / (layers - other)
    low, high = (layers + (limit - this[0]) / each for limit in MEMORY_BYTES)
    takes = f"12 to 15 GB per GPU are {low:.0f} to {high:.0f} layers"

    def finding(count: int, peak: tuple[float, Source]) -> Finding:
        point = Point("", peak[0])
        verdict = within(peak[0], *MEMORY_BYTES)
        return Finding(
            f"{count} layers, forward peak per device",
            (point,),
            "bytes",
            "compiled",
            verdict,
            takes,
            sources=(peak[1],),
        )

    findings = (finding(layers, this), finding(other, that))
    return Claim("layers", "16 in one place, 4 in another", findings)


def check_parameters(e: Evidence) -> Claim:
    """Count the parameters of both numbers of layers."""
    other = override(e.config, [f"model.num_layers={other_layers(e.config)}"])
    findings = tuple(
        Finding(
            f"{what}, {e.config.model.moe.num_experts} experts per layer",
            tuple(
                Point(f"{c.model.num_layers} layers", float(count(c))) for c in (e.config, other)
            ),
            "parameters",
            "modelled",
            "not stated",
            "",
            ("every parameter of the config, counted",),
        )
        for what, count in (("all", total_parameters), ("of one token", active_parameters))
    )
    return Claim("parameters", "not stated; they follow from the layers", findings)


def check_buffer(e: Evidence) -> Claim:
    """Check whose buffer the stated one is: the whole batch's, or a device's share of it."""
    c = e.config
    batch, length, width = c.train.global_batch, c.data.sequence_length, c.model.d_model
    size = float(batch * length * width * DTYPE_BYTES[c.precision.compute])
    shards = c.mesh.data * c.mesh.fsdp * c.mesh.expert
    whole = Finding(
        f"{batch} x {length:,} x {width} x {DTYPE_BYTES[c.precision.compute]} bytes",
        (Point("", size),),
        "bytes",
        "modelled",
        within(size, BUFFER_BYTES, BUFFER_BYTES),
        "it is the whole batch's",
    )
    share = Finding(
        f"one device's share of it under {e.label}",
        (Point("", size / shards),),
        "bytes",
        "modelled",
        "not stated",
        f"for 10.5 GB: 1 batch shard instead of {shards}, as in TP=8, PP=2 with one microbatch",
    )
    return Claim("input buffer", "10.5 GB", (whole, share))


def check_memory(e: Evidence) -> Claim:
    """Check what a device needs, forward and in training."""
    names = {**e.experts, **e.replicas}
    forward, sources = e.series(names, "memory.peak_bytes")
    most = max(point.value for point in forward)
    train, train_source = e.read(e.train, "memory.peak_bytes")
    findings = (
        Finding(
            "forward",
            tuple(forward),
            "bytes",
            "compiled",
            at_most(most, MEMORY_BYTES[1]),
            _memory_takes(e.plans[max(names.values(), key=lambda n: e.plans[n].memory.peak_bytes)]),
            sources=sources,
        ),
        Finding(
            f"training step ({e.config.optimizer.name}, {e.config.train.remat} rematerialisation)",
            (Point(e.label, train),),
            "bytes",
            "compiled",
            at_most(train, MEMORY_BYTES[1]),
            _memory_takes(e.plans[e.train]),
            sources=(train_source,),
        ),
    )
    return Claim("memory per GPU", "12 to 15 GB", findings)


def _memory_takes(plan: Plan) -> str:
    if at_most(plan.memory.peak_bytes, MEMORY_BYTES[1]) == "holds":
        return ""
    state = sum(p.bytes for p in plan.memory.parts if p.name in ("parameters", "optimiser"))
    rest = plan.memory.peak_bytes - state
    parts = f"parameters and optimiser are {show(state, 'bytes')}, the rest {show(rest, 'bytes')}"
    if rest >= MEMORY_BYTES[1]:
        return f"{parts}: no splitting of the former is enough"
    ways = -(-state // (MEMORY_BYTES[1] - rest))
    return f"{parts}: split the former over {ways:.0f} devices"
