"""`plan(config, target) -> Plan`: the very program, compiled for a cluster that is not there.

What it needs and how fast it is are read off what XLA made of it.
Compiling is `compile/jobs.py`, the programs are `compile/programs.py`; memory, times, bytes and
speed are `compiled/memory.py`, `compiled/clock.py` with `compiled/phases.py`, `compiled/traffic.py`
and `report/speed.py`.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version

from moe_jax.axes import TENSOR
from moe_jax.config import Config, check
from moe_jax.config.remat import AUTO
from moe_jax.errors import UserError
from moe_jax.hardware.calibration import Calibration
from moe_jax.hardware.network import axis_group
from moe_jax.hardware.rates import rates_for
from moe_jax.inference.engine import check_decoding
from moe_jax.inference.inference_config import decoding_config, inference_config
from moe_jax.mesh.xla_options import MEMORY_FRACTION
from moe_jax.model.attention_choice import attention_implementation
from moe_jax.model.parallel import check_stages, placement_of
from moe_jax.model.pattern import layer_runs
from moe_jax.planner.compile.jobs import Compiled, CompileJob, compile_all
from moe_jax.planner.compile.target import Target
from moe_jax.planner.compiled.clock import Clock
from moe_jax.planner.compiled.memory import make_memory
from moe_jax.planner.compiled.phases import make_step
from moe_jax.planner.compiled.traffic import collective_costs, make_link_bytes
from moe_jax.planner.modelled.per_device import pipeline_schedule
from moe_jax.planner.report.figures import Mode, Step
from moe_jax.planner.report.results import Plan
from moe_jax.planner.report.speed import predict
from moe_jax.planner.xla.async_pairs import async_pairs
from moe_jax.planner.xla.buffers import parse_buffers
from moe_jax.planner.xla.hlo import parse_hlo
from moe_jax.training.memory_limit import usable
from moe_jax.training.remat import choose, describe, keeping, sets

#: Mode -> the function of `compile/programs.py` that builds its program.
PROGRAMS: dict[Mode, str] = {"forward": "forward", "train": "train_step", "decode": "decode"}
_PACKAGES = ("moe-jax", "jax", "jaxlib")


@dataclass(frozen=True)
class Request:
    """One program to plan."""

    config: Config
    target: Target
    mode: Mode = "train"

    @property
    def is_open(self) -> bool:
        """Whether what is kept for backward is found by compiling."""
        return self.mode == "train" and self.config.train.remat == AUTO

    def check(self) -> None:
        """Raise UserError unless the program can run on the target."""
        config, slots = self.config, self.config.train.global_batch
        if self.mode != "decode" and not config.train.scan_layers:
            raise UserError(
                "train.scan_layers = false: a plan reads what a layer takes off the loop over "
                "layers; plan with train.scan_layers=true"
            )
        if self.mode == "decode":
            check_decoding(decoding_config(config, slots), slots=slots)
            config = inference_config(config, config.mesh)
        check(config, self.target.devices)
        if config.mesh.pipe > 1:
            check_stages(config.model, placement_of(config))

    def prepared(self) -> "Request":
        """Return it with the config that the program runs with: that of a decode step, to decode.

        Raises:
            UserError: the model cannot be split so.
        """
        if self.mode != "decode":
            return self
        config = inference_config(self.config, self.config.mesh)
        return replace(self, config=decoding_config(config, self.config.train.global_batch))


@dataclass(frozen=True)
class _Program:
    """What became of a prepared request: as it was compiled, and what was found on the way."""

    request: Request
    compiled: Compiled
    note: str = ""


def plan(
    config: Config,
    target: Target,
    mode: Mode = "train",
    *,
    calibration: Calibration | None = None,
) -> Plan:
    """Plan one program of a config.

        from moe_jax.config import load_config
        from moe_jax.hardware.gpus import gpu_by_name
        from moe_jax.planner.planning import plan
        from moe_jax.planner.compile.target import Target

        plan(load_config("configs/paper_ep16.toml"), Target(gpu_by_name("h100"), hosts=2))

    Args:
        config: any config; its mesh must have as many devices as the target.
        target: the cluster.
        mode: "forward" (a batch's loss), "train" (the whole training step) or "decode" (the next
            token of each of `train.global_batch` sequences).
        calibration: measured rates, which then replace XLA's estimates of all compute.

    Raises:
        UserError: the config is inconsistent or does not fit the target; nothing was compiled.
        PlanExtraMissing: with the line that installs what is missing.
        CompileFailed: XLA, or the program itself, refuses.
    """
    return plan_all([Request(config, target, mode)], calibration=calibration)[0]


def plan_all(
    requests: Sequence[Request], *, calibration: Calibration | None = None
) -> tuple[Plan, ...]:
    """Plan several programs, those of one target in one worker process each; see `plan`.

    Args:
        requests: what to plan; plans come back in their order.
        calibration: measured rates.

    Raises:
        UserError: one of them cannot run; nothing was compiled.
        PlanExtraMissing: with the line that installs what is missing.
        CompileFailed: XLA, or a program itself, refuses.
    """
    for request in requests:
        request.check()
        rates_for(request.target.gpu, calibration)
    prepared = [request.prepared() for request in requests]
    plans: dict[int, Plan] = {}
    for mine, programs in _compiled_by_target(prepared):
        for i, program in zip(mine, programs, strict=True):
            plans[i] = make_plan(program.request, program.compiled, calibration)
            if program.note:
                noted = (program.note, *plans[i].assumptions)
                plans[i] = replace(plans[i], assumptions=noted)
    return tuple(plans[i] for i in range(len(prepared)))


def _compiled_by_target(
    prepared: Sequence[Request],
) -> Iterator[tuple[list[int], list[_Program]]]:
    """Compile the programs of each target in a worker process of its own, one per core at a time.

    Args:
        prepared: what `Request.prepared` returned, of any targets.

    Yields:
        Which requests, and what became of them.
    """
    targets = dict.fromkeys(request.target for request in prepared)
    mine = {t: [i for i, r in enumerate(prepared) if r.target == t] for t in targets}

    def compiled(target: Target) -> list[_Program]:
        requests = [prepared[i] for i in mine[target]]
        jobs = [make_job(request) for request in requests if not request.is_open]
        done = iter(compile_all(target, jobs) if jobs else ())
        return [_chosen(r) if r.is_open else _Program(r, next(done)) for r in requests]

    # XLA compiles a program on one core.
    with ThreadPoolExecutor(os.cpu_count() or 1) as workers:
        yield from zip(mine.values(), workers.map(compiled, targets), strict=True)


def _chosen(request: Request) -> _Program:
    """Find what `train.remat = "auto"` keeps on the target."""
    config, target = request.config, request.target

    def build(remat: str) -> tuple[Compiled, int]:
        job = make_job(replace(request, config=keeping(config, remat)))
        (program,) = compile_all(target, [job])
        return program, program.taken_bytes

    limit = usable(MEMORY_FRACTION * target.gpu.memory_bytes)
    chosen = choose(sets(config, target.topology), limit, build)
    kept = replace(request, config=keeping(config, chosen.remat))
    return _Program(kept, chosen.program, "\n    ".join(describe(chosen, config)))


def make_job(request: Request) -> CompileJob:
    """Return the compile job of a prepared request."""
    kwargs = {
        "config": request.config.model_dump(mode="json"),
        "devices_per_host": request.target.devices_per_host,
    }
    build = f"moe_jax.planner.compile.programs:{PROGRAMS[request.mode]}"
    return CompileJob(build, request.config.mesh, kwargs)


def make_plan(request: Request, compiled: Compiled, calibration: Calibration | None = None) -> Plan:
    """Read a plan off what was compiled for a prepared request.

    Args:
        request: what `Request.prepared` returned.
        compiled: what became of its `make_job`.
        calibration: measured rates.
    """
    config, target, mode = request.config, request.target, request.mode
    module, timed = parse_hlo(compiled.hlo_text), target.has_timeline
    timelines = compiled.timelines if timed else ()
    clock = Clock(
        module,
        timelines,
        rates_for(target.gpu, calibration),
        target.topology,
        calibrated=calibration is not None,
    )
    step = _step(clock, request) if timed else None
    return Plan(
        config=config,
        target=target,
        mode=mode,
        memory=make_memory(parse_buffers(compiled.buffers), module, target.gpu.memory_bytes),
        step=step,
        wire=make_link_bytes(clock, config, target.topology, mode, timed),
        collectives=collective_costs(clock, target.topology, timed),
        predicted=predict(step.total.total_s, config, target, mode) if step else None,
        assumptions=tuple(_assumptions(request, clock, calibration)),
        versions={package: version(package) for package in _PACKAGES},
        timelines=tuple(clock.timeline(t.computation) for t in timelines),
        pairs=() if timed else async_pairs(module),
    )


def _step(clock: Clock, request: Request) -> Step:
    model = request.config.model
    return make_step(
        clock,
        len(layer_runs(model)[-1].unit),
        bubble=pipeline_schedule(request.config).bubble,
        unrolled=model.num_layers if request.mode == "decode" else 0,
    )


def _attention(request: Request) -> str:
    counted = "whose products count as matmul and other"
    if request.mode == "decode":
        # `nn/cached_attention.py`, whatever attends to whole sequences.
        return f"xla over the cache, {counted}"
    implementation = attention_implementation(
        request.config, "gpu", request.target.gpu.compute_capability
    )
    return implementation if implementation == "cudnn" else f"{implementation}, {counted}"


def _assumptions(request: Request, clock: Clock, calibration: Calibration | None) -> Iterator[str]:
    estimator, target = request.target.estimator, request.target
    yield (
        "routing is balanced: nothing overflows into further rounds, and every branch counts as "
        "its cheapest side"
    )
    tensor = axis_group(request.config.mesh, (TENSOR,), target.topology)
    if tensor.hosts > 1:
        yield (
            f"mesh.tensor = {tensor.devices} spans {tensor.hosts} hosts: every layer's sums cross "
            f"the network; up to {target.devices_per_host} they stay inside a host"
        )
    if not target.has_timeline:
        yield f"{target.why_no_timeline}: there is no timeline and no speed"
        return
    yield (
        f"collectives as XLA's analytical model has them at {estimator.nic_gbytes_per_s} GB/s per "
        f"network adapter, {estimator.rtt_us} us per round trip and {estimator.chunk_prep_us} us "
        "per chunk"
    )
    yield "the order of instructions is the one XLA chose under its own costs"
    yield f"attention: {_attention(request)}"
    yield f"{clock.rates.source}; used for " + (
        "cuDNN attention, which XLA costs at 10 us a call, for products of bfloat16 with a float32 "
        "result, which it prices as float32 arithmetic, and for what its scheduler does not time "
        "(loops without collectives)"
        if calibration is None
        else "all compute, in place of XLA's estimates"
    )
    if clock.runs_grouped:
        yield (
            "grouped matmuls count every row of their buffers, at the rate above: rows of nobody, "
            "which they skip when they run, are not known before"
        )
    yield f"calibration: {'none' if calibration is None else calibration.hardware}"
    yield "launching kernels takes no time, nor does the host"
    if clock.untold_loops:
        yield f"loops whose trips XLA does not know run once: {', '.join(clock.untold_loops)}"
    if clock.computes_again:
        yield (
            "XLA, short of memory, computes some values again; times are those of its schedule, "
            "which does not have that work"
        )
    if request.mode == "decode":
        yield (
            f"{request.config.train.global_batch:,} sequences, each with a full cache of "
            f"{request.config.data.sequence_length:,} tokens, all of which attention reads"
        )
