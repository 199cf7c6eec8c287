"""A run of configs/quickstart.toml in seconds: in this process, or as a command. No tests here."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from support.places import ROOT

from moe_jax.checkpoint import Checkpoints
from moe_jax.checkpoint.tree import flatten
from moe_jax.config import Config, check, load_config
from moe_jax.mesh.build import build_mesh, mesh_shape
from moe_jax.session import Session, make_session
from moe_jax.training.state import abstract_state
from moe_jax.training.step import Steps, make_steps

QUICKSTART = ROOT / "configs" / "quickstart.toml"

#: Only sizes and intervals: mesh, exchange, router, optimiser and data stay the file's own.
SMALL = (
    "model.d_model=32",
    "model.num_layers=2",
    "model.attention.heads=2",
    "model.attention.kv_heads=2",
    "model.attention.head_dim=16",
    "model.moe.d_ff=64",
    "data.sequence_length=32",
    "train.steps=20",
    "train.validation_every=0",
    "schedule.warmup_steps=5",
)
#: Added for one device and the least to compile.
ONE_DEVICE = ("mesh.expert=1", "exchange.transport=local", "exchange.streams=1")


def small_config(*overrides: str) -> Config:
    """Returns the scaled-down quickstart with `overrides`, checked."""
    config = load_config(QUICKSTART, [*SMALL, *overrides])
    check(config)
    return config


def session_on_first_devices(config: Config) -> Session:
    """Returns what `make_session` does, on as many of this process's devices as the mesh needs."""
    size = math.prod(mesh_shape(config.mesh))
    return make_session(config, "cpu", mesh=build_mesh(config.mesh, jax.devices()[:size]))


def steps_of(session: Session) -> Steps:
    """Returns the training functions of a session."""
    return make_steps(session.skeleton, session.parallel)


def settings(overrides: Iterable[str]) -> list[str]:
    """Returns `overrides` as they are written on the command line."""
    return [word for override in overrides for word in ("--set", override)]


def train_arguments(workdir: Path, *overrides: str) -> list[str]:
    """Returns the arguments of `moe-jax` that train the scaled-down quickstart."""
    options = settings([*SMALL, *overrides])
    return ["train", str(QUICKSTART), *options, "--workdir", str(workdir)]


def command(*arguments: str) -> list[str]:
    """Returns `moe-jax ARGUMENTS` for a process of its own."""
    return [sys.executable, "-m", "moe_jax.cli.main", *arguments]


def environment(cache: Path) -> dict[str, str]:
    """Returns the environment of such a process, which shares its programs with others through
    `cache`."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("MOE_JAX_", "JAX_"))}
    return own | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
    }


def run(arguments: list[str], cache: Path) -> subprocess.CompletedProcess[str]:
    """Runs `moe-jax ARGUMENTS` to its end."""
    return subprocess.run(
        command(*arguments),
        env=environment(cache),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def finished_run(workdir: Path, cache: Path, *overrides: str) -> Path:
    """Train in a process of its own, which must succeed; return the workdir."""
    done = run(train_arguments(workdir, *overrides), cache)
    assert done.returncode == 0, done.stderr
    return workdir


def wait_for(condition: Callable[[], bool], process: subprocess.Popen, seconds: float) -> None:
    """Polls often enough to act within a training step; fails when the process ends first."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"ended with {process.returncode} before it happened"
        assert time.monotonic() < deadline, f"did not happen within {seconds} s"
        time.sleep(0.002)


def records(workdir: Path) -> list[dict[str, Any]]:
    """Returns the records of training steps in metrics.jsonl, in the order of the file.

    A last line without its end is being written, or was when its process was killed.
    """
    *lines, _ = (workdir / "metrics.jsonl").read_text().split("\n")
    return [record for record in map(json.loads, lines) if "loss" in record]


def checkpoint_arrays(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """Returns every array of a run's checkpoint: parameters, optimiser state, counters."""
    config = load_config(workdir / "config.toml")
    session = session_on_first_devices(config)
    abstract = abstract_state(session.skeleton, steps_of(session).optimizer, session.mesh)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        restored = checkpoints.restore(abstract, step=step)
    return {path: np.asarray(array) for path, array in flatten(restored.state).items()}


def assert_same_bits(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    assert got.keys() == want.keys()
    differing = [path for path in want if got[path].tobytes() != want[path].tobytes()]
    assert not differing
