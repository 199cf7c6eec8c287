"""What a config's mesh and [sharding] and [pipeline] sections split, and how long a pipeline waits.

Sizes and bytes are `facts.py`; what a layout costs in time is the planner's.
"""

from collections.abc import Iterator

from moe_jax.axes import BATCH_AXES
from moe_jax.config import Config
from moe_jax.model.pattern import layer_runs
from moe_jax.model.pipeline import Schedule, pipelined

Row = tuple[str, str]


def layout_rows(config: Config) -> Iterator[Row]:
    """Yield (name, value) for each way of splitting that the config uses."""
    yield from _fsdp(config)
    yield from _tensor(config)
    yield from _optimizer(config)
    yield from _pipeline(config)


def schedules(config: Config) -> list[tuple[int, Schedule]]:
    """Return (layers of a repetition, schedule) of each stack that goes through the pipeline."""
    pipe, pipeline = config.mesh.pipe, config.pipeline
    stacks = [
        (
            len(run.unit),
            pipelined(pipe, pipeline.virtual_stages, pipeline.microbatches, run.repeats),
        )
        for run in layer_runs(config.model)
    ]
    return [(layers, schedule) for layers, schedule in stacks if schedule is not None]


def _fsdp(config: Config) -> Iterator[Row]:
    fsdp, expert = config.mesh.fsdp, config.mesh.expert
    dense = "fsdp" if config.sharding.dense == "fsdp" else "fsdp x expert"
    parts = fsdp if config.sharding.dense == "fsdp" else fsdp * expert
    if fsdp * parts == 1:
        return
    experts = f", those of experts / {fsdp} (fsdp)" if "moe" in config.model.layers else ""
    yield "FSDP", f"d_model of dense parameters / {parts} ({dense}){experts}; gathered for use"


def _tensor(config: Config) -> Iterator[Row]:
    size, attention = config.mesh.tensor, config.model.attention
    if size == 1:
        return
    what = ["heads"]
    if attention.kv_heads % size == 0:
        what.append("key/value heads")
    what += ["MLPs' d_ff"] if "dense" in config.model.layers else []
    what += ["experts' d_ff"] if "moe" in config.model.layers else []
    copied = "" if attention.kv_heads % size == 0 else "; key/value heads whole on each device"
    between = {
        "split": f"split along the sequence, {config.data.sequence_length // size:,} tokens each",
        "whole": "whole on each device",
    }[config.sharding.sequence]
    yield (
        "tensor parallelism",
        f"{', '.join(what)} and vocabulary / {size}{copied}; activations between matmuls {between}",
    )


def _optimizer(config: Config) -> Iterator[Row]:
    if config.sharding.optimizer == "zero" and any(getattr(config.mesh, a) > 1 for a in BATCH_AXES):
        yield "ZeRO", "d_model of optimiser state also over batch axes that hold copies"


def _pipeline(config: Config) -> Iterator[Row]:
    mesh, train = config.mesh, config.train
    shards = mesh.data * mesh.fsdp * mesh.expert
    rows = train.global_batch // (train.accumulation * config.exchange.streams * shards)
    for unit, schedule in schedules(config):
        groups = schedule.stages * schedule.rounds
        empty = groups * schedule.group - schedule.layers
        yield (
            "pipeline",
            f"{schedule.stages} stages x {schedule.rounds} = {groups} groups of "
            f"{schedule.group * unit} layers" + (f", {empty * unit} places empty" if empty else ""),
        )
        parts = schedule.microbatches
        yield (
            "microbatches",
            f"{parts} of {rows // parts} sequences per stream; {schedule.ticks} ticks, bubble "
            f"{schedule.bubble:.1%}",
        )
