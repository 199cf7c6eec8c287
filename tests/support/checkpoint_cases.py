"""A small state with every kind of leaf, and ways to compare and describe it. No tests here."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from support.places import TESTS, WORKERS

Worker = subprocess.Popen

INFO = {"config": 'name = "run"\n', "data": {"seed": 7, "step": 10}, "fingerprint": "abc"}


def mesh_of(*shape: int) -> Mesh:
    names = ("a", "b", "c")[: len(shape)]
    return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(shape))


def make_state(step: int, mesh: Mesh) -> dict[str, Any]:
    """Values depend on `step` only, so any process can say what a step must hold."""
    rng = np.random.default_rng(step)
    first = mesh.axis_names[0]
    values = {
        "params": {
            "w": (rng.standard_normal((16, 24)).astype(np.float32), P(first)),
            "half": (rng.standard_normal((8, 8)).astype(jnp.bfloat16), P(None, first)),
            "bias": (rng.standard_normal((24,)).astype(np.float32), P()),
        },
        "opt": [
            (rng.integers(-(2**31), 2**31, (8,), dtype=np.int32), P(first)),
            (np.array([np.nan, -0.0, np.inf, 1e-45], np.float32), P()),
        ],
        "flags": (rng.integers(0, 2, (8,)).astype(bool), P()),
        "count": (np.int32(step), P()),
        "scale": (np.float32(0.1), P()),
    }

    def place(pair: tuple[np.ndarray, P]) -> jax.Array:
        value, spec = np.asarray(pair[0]), pair[1]
        sharding = NamedSharding(mesh, spec)
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return jax.tree.map(place, values, is_leaf=lambda node: isinstance(node, tuple))


def abstract(state: Any) -> Any:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def assert_same_bits(got: Any, want: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for (path, x), y in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
        assert x.dtype == y.dtype, path
        assert x.shape == y.shape, path
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), path


def data_file(step_dir: Path) -> Path:
    """The file that holds array data (orbax merges what the processes wrote into `d`)."""
    return max((step_dir / "arrays" / "d").iterdir(), key=lambda path: path.stat().st_size)


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(bytes(data))


@contextmanager
def running(log: Path, script: str, *argument_lists: Sequence[object]) -> Iterator[list[Worker]]:
    """A script of `workers/`, once per list of arguments, each in a process of its own.

    Their standard output is piped (gloo talks there too, so look at the lines you know); what
    they write to stderr is collected in the file `log`.
    """
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(TESTS)}
    with ExitStack() as stack:
        errors = stack.enter_context(log.open("a"))
        workers = []
        for arguments in argument_lists:
            command = [sys.executable, str(WORKERS / script), *map(str, arguments)]
            worker = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
            )
            stack.enter_context(worker)
            stack.callback(worker.kill)
            workers.append(worker)
        yield workers


def two_processes(*arguments: object) -> list[list[object]]:
    """Argument lists of processes 0 and 1: index, port of the coordinator, `arguments`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [[index, port, *arguments] for index in (0, 1)]


def join_two(index: int, port: int) -> None:
    """Called by such a script, before it uses JAX: 2 processes of 4 devices each."""
    jax.config.update("jax_num_cpu_devices", 4)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    address = f"127.0.0.1:{port}"
    jax.distributed.initialize(address, 2, index, coordinator_bind_address=address)
