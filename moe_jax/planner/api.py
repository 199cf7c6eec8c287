"""`moe_jax.plan`: a plan from what a user has at hand, a config and the name of a GPU.

What is compiled and read off is `planning.py`; `moe-jax plan` is `cli/plan/verb.py`.
"""

import math
from pathlib import Path
from typing import get_args

from moe_jax.config import Config, load_config
from moe_jax.errors import UserError
from moe_jax.hardware.calibration import Calibration, load_calibration, recorded
from moe_jax.mesh.build import mesh_shape
from moe_jax.planner import planning
from moe_jax.planner.compile.hardware_file import known_hardware, load_hardware
from moe_jax.planner.compile.target import Target
from moe_jax.planner.report.figures import Mode
from moe_jax.planner.report.results import Plan


def plan(
    config: Config | str | Path,
    *,
    gpu: str = "h100",
    hosts: int | None = None,
    devices_per_host: int | None = None,
    mode: Mode = "forward",
    calibration: Calibration | str | Path | None = None,
    hardware: str | Path | None = None,
    target: Target | None = None,
) -> Plan:
    """Say what a config needs on a cluster that is not there, and how fast it is.

    Compiles the very program that would run, in a worker process; needs the plan extra and no GPU.

        import moe_jax

        plan = moe_jax.plan("configs/paper_ep16.toml", gpu="h100", hosts=2, mode="train")
        print(plan)
        print(plan.memory.peak_bytes / 2**30, plan.predicted.tokens_per_s)

    Args:
        config: the config, or the path of its file.
        gpu: name of the GPUs, such as "h100", "h200" or "b200", in any case.
        hosts: how many; None for as many as the config's mesh fills.
        devices_per_host: GPUs of each; None for 8, or the whole mesh if that is smaller.
        mode: "forward" (a batch's loss), "train" (the whole training step) or "decode" (the next
            token of each of `train.global_batch` sequences).
        calibration: measured rates in place of XLA's estimates of compute: one that is loaded, the
            path of one that `moe-jax bench calibrate` wrote, or "recorded" for our own of the GPU.
        hardware: TOML file with GPUs and clusters of yours.
        target: the cluster, in place of `gpu`, `hosts`, `devices_per_host` and `hardware`.

    Returns:
        Memory, times, traffic and speed; prints as tables.

    Raises:
        UserError: the config is inconsistent, does not fit the cluster, or the plan extra is
            missing (the message has the line that installs it); nothing was compiled. Or XLA
            refuses the program.
    """
    if not isinstance(config, Config):
        config = load_config(config)
    if mode not in get_args(Mode):
        raise UserError(f"mode is {mode!r}: give {', '.join(get_args(Mode))}")
    if target is not None and not isinstance(target, Target):
        raise UserError(f"target is {target!r}: give a Target, or gpu= and hosts=")
    if target is None:
        target = target_for(config, gpu, hosts, devices_per_host, hardware=hardware)
    if not isinstance(calibration, Calibration):
        calibration = calibration_for(calibration, target.gpu.name)
    return planning.plan(config, target, mode, calibration=calibration)


def target_for(
    config: Config,
    gpu: str = "h100",
    hosts: int | None = None,
    devices_per_host: int | None = None,
    *,
    hardware: str | Path | None = None,
    mesh_varies: bool = False,
) -> Target:
    """Return a cluster by the name of its GPU; sizes left open fit the config's mesh.

    Args:
        config: what is to run there.
        gpu: see `plan`.
        hosts: see `plan`.
        devices_per_host: see `plan`.
        hardware: see `plan`.
        mesh_varies: whether other meshes than the config's are looked for, so that the cluster
            may have another number of devices.

    Raises:
        UserError: an unknown GPU, or a mesh that does not fill whole hosts.
    """
    if not isinstance(gpu, str):
        raise UserError(f"gpu is {gpu!r}: give its name, such as 'h100'")
    for name, count in (("hosts", hosts), ("devices_per_host", devices_per_host)):
        if count is not None and (type(count) is not int or count < 1):
            raise UserError(f"{name} is {count!r}: give a whole number, 1 or more")
    known = known_hardware() if hardware is None else load_hardware(hardware)
    devices = math.prod(mesh_shape(config.mesh))
    per_host = min(8, devices) if devices_per_host is None else devices_per_host
    count = -(-devices // per_host) if hosts is None else hosts
    if count * per_host != devices and not mesh_varies:
        raise UserError(
            f"the mesh has {devices} devices and {count} hosts x {per_host} are {count * per_host}:"
            " make hosts x devices per host the mesh's, or change the mesh (mesh.expert=...)"
        )
    return known.target(gpu, count, per_host)


def calibration_for(asked: str | Path | None, gpu: str) -> Calibration | None:
    """Return measured rates.

    Args:
        asked: the path of a file, "recorded" for our own record of the GPU, or None for none.
        gpu: name of the GPU.

    Raises:
        UserError: a file that is none, or a GPU that we have no record of.
    """
    if asked is None or str(asked) != "recorded":
        return None if asked is None else load_calibration(asked)
    record = recorded(gpu)
    if record is None:
        raise UserError(
            f"calibration recorded: there is no record of {gpu}; calibrate one with "
            "`moe-jax bench calibrate` and pass its file"
        )
    return record
