"""Rules that span several fields, checked before anything compiles.

Each rule yields its problems as text: the values, the rule, the remedy. Ranges of a single field
belong to `schema.py`, rules of the model alone to `model_rules.py`, of model and mesh to
`mesh_rules.py`; what only a running backend can know (memory, kernels) is not checked here.
"""

import math
from collections.abc import Callable

from moe_jax.axes import AXES, BATCH_AXES
from moe_jax.config.load import ConfigError
from moe_jax.config.mesh_rules import MESH_RULES
from moe_jax.config.model_rules import MODEL_RULES, Problems, either, multiples_around
from moe_jax.config.schema import Config, MeshConfig


def check(config: Config, device_count: int | None = None) -> None:
    """Raise unless `config` is consistent.

    Args:
        config: a configuration whose fields are already valid one by one.
        device_count: devices of the whole job, over all hosts; None leaves the mesh's size open.

    Raises:
        ConfigError: lists every broken rule with its values and remedy.
    """
    problems = [problem for rule in RULES for problem in rule(config)]
    if device_count is not None:
        problems = [*mesh_matches_devices(config.mesh, device_count), *problems]
    if problems:
        raise ConfigError(f"the configuration {config.name!r} cannot run", problems)


def mesh_matches_devices(mesh: MeshConfig, device_count: int) -> Problems:
    """Yield a problem unless the product of the mesh axes is the number of devices."""
    sizes = {axis: getattr(mesh, axis) for axis in AXES}
    wanted = math.prod(sizes.values())
    if wanted == device_count:
        return
    remedies = [
        f"mesh.{axis}={device_count * sizes[axis] // wanted}"
        for axis in ("expert", "data")
        if device_count * sizes[axis] % wanted == 0
    ]
    shape = " x ".join(f"{axis} {size}" for axis, size in sizes.items())
    yield (
        f"the mesh has {wanted} devices ({shape}) and the job has {device_count}: "
        f"set {' or '.join(remedies or ['the axes so that their product matches'])}, "
        f"start the job on {wanted}, or emulate them with runtime.platform=cpu"
    )


def _batch_divides(config: Config) -> Problems:
    mesh, train = config.mesh, config.train
    shards = math.prod(getattr(mesh, axis) for axis in BATCH_AXES)
    unit = train.accumulation * config.exchange.streams * shards
    if train.global_batch % unit == 0:
        return
    used = [f"{axis} {getattr(mesh, axis)}" for axis in BATCH_AXES if getattr(mesh, axis) > 1]
    yield (
        f"train.global_batch ({train.global_batch}) must be a multiple of {unit} = "
        f"train.accumulation ({train.accumulation}) x exchange.streams "
        f"({config.exchange.streams}) x the mesh's batch axes ({' x '.join(used) or 1}): set "
        f"train.global_batch to {either(multiples_around(train.global_batch, unit))}"
    )


def _name(config: Config) -> Problems:
    name = config.name
    if name in ("", ".", "..") or any(mark in name for mark in "/\\\0"):
        yield (
            f"name ({name!r}) is the name of a directory in runs/, so it cannot be empty, . or .. "
            "or hold a slash: set name to one word, and --workdir to say where a run lives"
        )


def _schedule(config: Config) -> Problems:
    schedule, steps = config.schedule, config.train.steps
    decay = schedule.decay_steps if schedule.kind == "wsd" else 0
    if schedule.kind == "wsd" and decay == 0:
        yield (
            "schedule.kind = wsd with schedule.decay_steps = 0 never decays: set "
            f"schedule.decay_steps to {max(1, steps // 5)}, or schedule.kind=constant"
        )
    if schedule.warmup_steps + decay > steps:
        yield (
            f"schedule.warmup_steps ({schedule.warmup_steps}) plus decay steps ({decay}) must be "
            f"at most train.steps ({steps}): set train.steps to "
            f"{schedule.warmup_steps + decay} or more, or shorten the schedule"
        )


def _profile_steps(config: Config) -> Problems:
    chosen = config.train.profile_steps
    if not chosen:
        return
    if len(chosen) != 2 or chosen[0] >= chosen[1] or chosen[1] > config.train.steps:
        yield (
            f"train.profile_steps = {list(chosen)} must be empty or [start, stop] with start < "
            f"stop <= train.steps ({config.train.steps}), such as [10, 12]"
        )


def _data_paths(config: Config) -> Problems:
    data = config.data
    if data.source == "files":
        if not data.paths:
            yield 'data.source = files needs data.paths, such as ["corpus.jsonl"]; it is empty'
        return
    for name, paths in (("paths", data.paths), ("validation_paths", data.validation_paths)):
        if paths:
            yield (
                f"data.{name} = {list(paths)} is not read by data.source = {data.source}: "
                f"set data.source=files, or data.{name}=[]"
            )


def _validation_data(config: Config) -> Problems:
    data, every = config.data, config.train.validation_every
    held_out = data.validation_fraction > 0 or data.validation_paths or data.source == "synthetic"
    if every > 0 and not held_out:
        yield (
            f"train.validation_every = {every} but nothing is held out (data.validation_fraction "
            "= 0): set data.validation_fraction=0.05, or train.validation_every=0"
        )


def _master_copy(config: Config) -> Problems:
    if config.precision.master == "float32" and config.precision.params != "bfloat16":
        yield (
            f"precision.master = float32 needs precision.params=bfloat16, it is "
            f"{config.precision.params} and would be stored twice: set precision.master=none"
        )


RULES: tuple[Callable[[Config], Problems], ...] = (
    _name,
    _batch_divides,
    _schedule,
    _profile_steps,
    _data_paths,
    _validation_data,
    _master_copy,
    *MESH_RULES,
    *MODEL_RULES,
)
