"""Layouts of one model and batch side by side: the forward pass and the training step of each.

Sizes are reduced by one list of overrides for all, so that configs of a cluster run on emulated
devices. Those share cores and memory: an exchange between them is a copy, and no device waits for
a network. What is compared is work: arithmetic, padding, copies, and the bubble of a pipeline,
which costs as much as useful work where devices share cores.
"""

import datetime
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from operator import attrgetter
from typing import Any

from moe_jax.axes import AXES
from moe_jax.bench.harness import measure
from moe_jax.bench.machine import PACKAGES, cores, describe_hardware
from moe_jax.bench.programs.step import Mode, fresh_state, random_batch
from moe_jax.config import Config, check, override
from moe_jax.config.schema import MeshConfig
from moe_jax.errors import UserError
from moe_jax.mesh.build import mesh_shape
from moe_jax.mesh.xla_options import compiler_options
from moe_jax.planner.xla.hlo import HloComputation, called, parse_hlo
from moe_jax.planner.xla.loops import body_of, executions, trip_count, trips_in_balance
from moe_jax.planner.xla.work import matmul_flops
from moe_jax.session import Session, make_session
from moe_jax.training.step import make_steps

CAVEAT = (
    "Emulated devices share cores and memory: these figures compare work, not networks. A pipeline "
    "pays for its bubble as for work."
)

#: What is compared on emulated devices: the paper's proportions, small.
REDUCED = (
    "model.num_layers=8",
    "model.d_model=128",
    "model.vocab_size=1024",
    "model.attention.heads=8",
    "model.attention.kv_heads=8",
    "model.attention.head_dim=16",
    "model.moe.d_ff=512",
    "data.sequence_length=32",
    "train.loss_chunk=32",
    # CPUs compute in float32.
    "precision.params=float32",
    "precision.compute=float32",
    "precision.optimizer_state=float32",
    "precision.master=none",
    # With a few rows per expert even chance overflows; at the paper's size it hardly does.
    "exchange.overflow=drop",
    "runtime.platform=cpu",
)


@dataclass(frozen=True)
class LayoutTime:
    """One program of one layout. Times are measured, `device_flops` is read off the program.

    Attributes:
        layout: the config's name.
        mesh: its axes larger than 1.
        seconds, spread_s: of a step, see `harness.Timing`.
        tokens_per_s: of the global batch.
        device_flops: of the matrix products that each device computes in a step; None where that
            depends on data: of experts in groups, where no kernel says it.
    """

    layout: str
    mesh: str
    mode: Mode
    seconds: float
    spread_s: float
    tokens_per_s: float
    device_flops: int | None


@dataclass(frozen=True)
class LayoutTimes:
    """Every layout on the same devices, the one that the others are compared with first."""

    hardware: str
    cores: int
    date: str
    versions: dict[str, str]
    overrides: tuple[str, ...]
    repeats: int
    times: tuple[LayoutTime, ...]

    def ratio(self, time: LayoutTime) -> float:
        """Tokens per second over those of the first layout in the same mode."""
        return time.tokens_per_s / self._first(time.mode).tokens_per_s

    def flops_ratio(self, time: LayoutTime) -> float | None:
        """FLOPs of a device over those of the first layout in the same mode, if both are known."""
        own, first = time.device_flops, self._first(time.mode).device_flops
        return own / first if own and first else None

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values, ratios and the caveat included."""
        rows = [
            asdict(t) | {"ratio": self.ratio(t), "flops_ratio": self.flops_ratio(t)}
            for t in self.times
        ]
        return asdict(self) | {"kind": "measured", "caveat": CAVEAT, "times": rows}

    def _first(self, mode: Mode) -> LayoutTime:
        return next(time for time in self.times if time.mode == mode)


def reduced(config: Config, overrides: Sequence[str] = (), devices: int = 0) -> Config:
    """Return a config at the size that is compared, checked.

    Args:
        config: a config of any size.
        overrides: on top of `REDUCED`.
        devices: to fit its mesh to (0: leave it as it is).

    Raises:
        UserError: the overrides do not suit its layout, or its mesh cannot be fitted.
    """
    config = override(config, [*REDUCED, *overrides])
    if devices:
        config = config.model_copy(update={"mesh": fitted(config.mesh, devices)})
    check(config)
    return config


def fitted(mesh: MeshConfig, devices: int) -> MeshConfig:
    """Return a mesh of `devices`: its largest axis is cut, or grows, by what that takes.

    Args:
        mesh: sizes of all axes.
        devices: of the new mesh.

    Raises:
        UserError: the axis would not be whole.
    """
    have = math.prod(mesh_shape(mesh))
    axis = max(AXES, key=lambda name: getattr(mesh, name))
    size, rest = divmod(getattr(mesh, axis) * devices, have)
    if rest or not size:
        raise UserError(
            f"a mesh of {axes_text(mesh)} cannot be fitted to {devices} devices by its largest "
            f"axis alone: use a number of devices of which {have} is a multiple"
        )
    return mesh.model_copy(update={axis: size})


def axes_text(mesh: MeshConfig) -> str:
    """Return the axes that are larger than 1: "pipe 2 x tensor 8"."""
    used = [f"{axis} {getattr(mesh, axis)}" for axis in AXES if getattr(mesh, axis) > 1]
    return " x ".join(used) or "1 device"


def measure_layouts(
    configs: Sequence[Config],
    platform: str,
    *,
    overrides: Sequence[str] = (),
    repeats: int = 3,
    report: Callable[[LayoutTime], None] = lambda _: None,
) -> LayoutTimes:
    """Time the forward pass and the training step of each config, one after another.

    Args:
        configs: what `reduced` returned, all with meshes of the devices at hand and with the same
            batch; the others are compared with the first.
        platform: "cpu" or "gpu".
        overrides: what made the configs small, to be told with the result.
        repeats: timed steps of each program.
        report: called with each result as it comes.

    Raises:
        UserError: the configs do not compute the same model on the same tokens.
    """
    _require_same_work(configs)
    times, hardware = [], ""
    for config in configs:
        session = make_session(config, platform)
        hardware = describe_hardware(session.topology, session.mesh.devices.flat[0])
        for time in _measure(session, repeats):
            report(time)
            times.append(time)
    return LayoutTimes(
        hardware=hardware,
        cores=cores(),
        date=datetime.date.today().isoformat(),
        versions={package: version(package) for package in PACKAGES},
        overrides=tuple(overrides),
        repeats=repeats,
        times=tuple(times),
    )


def _require_same_work(configs: Sequence[Config]) -> None:
    first, *others = configs
    for config in others:
        for section in ("model", "train.global_batch", "data.sequence_length"):
            mine, theirs = attrgetter(section)(config), attrgetter(section)(first)
            if mine != theirs:
                raise UserError(
                    f"{config.name} and {first.name} differ in {section} ({mine} and {theirs}), so "
                    "their layouts cannot be compared: set it for all of them with --set"
                )


def _measure(session: Session, repeats: int) -> Iterator[LayoutTime]:
    state, batch = fresh_state(session), random_batch(session)
    options = compiler_options(session.platform)
    steps = make_steps(session.skeleton, session.parallel)
    evaluate = steps.jit_evaluate(options).lower(state.weights, batch)
    forward = evaluate.compile()
    yield _timed(session, "forward", forward, lambda: forward(state.weights, batch), repeats)
    train = steps.jit_train(options).lower(state, batch).compile()

    def step() -> Any:
        nonlocal state
        state, metrics = train(state, batch)
        return metrics

    yield _timed(session, "train", train, step, repeats)


def _timed(
    session: Session, mode: Mode, program: Any, call: Callable[[], Any], repeats: int
) -> LayoutTime:
    timing = measure(call, repeats=repeats, calls=1)
    config = session.config
    tokens = config.train.global_batch * config.data.sequence_length
    return LayoutTime(
        layout=config.name,
        mesh=axes_text(config.mesh),
        mode=mode,
        seconds=timing.seconds,
        spread_s=timing.spread_s,
        tokens_per_s=tokens / timing.seconds,
        device_flops=_device_flops(program.as_text()),
    )


def _device_flops(hlo_text: str) -> int | None:
    """Return the FLOPs of a program's matrix products on one device, loops counted out.

    None if there are products in a loop that runs as often as data say.
    """
    module = parse_hlo(hlo_text)
    if any(
        i.opcode == "while"
        and trip_count(i) is None
        and trips_in_balance(i)
        and _has_products(module, body_of(i))
        for computation in module.values()
        for i in computation.instructions
    ):
        return None
    return sum(
        times * matmul_flops(i, module[name], module)
        for name, times in executions(module).items()
        for i in module[name].instructions
        if i.opcode != "fusion"
    )


def _has_products(module: Mapping[str, HloComputation], name: str) -> bool:
    computation = module[name]
    return any(
        matmul_flops(i, computation, module) or any(_has_products(module, c) for c in called(i))
        for i in computation.instructions
    )
