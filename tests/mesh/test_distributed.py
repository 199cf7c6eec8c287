"""Connecting processes: a real job of two on this machine, and what each one listens on."""

import json
import os
import socket
import subprocess
import sys

import pytest

from moe_jax.mesh.distributed import bind_address, local_gpus, start_distributed
from moe_jax.mesh.jobs import SINGLE, DistributedError, Job

EIGHT = "0,1,2,3,4,5,6,7"

WORKER = """
import json, sys
from moe_jax.config import Config, override
from moe_jax.mesh.build import build_mesh
from moe_jax.mesh.platform import prepare_devices
from moe_jax.mesh.distributed import JobFlags, start_distributed
from moe_jax.hardware.topology import find_topology

job = start_distributed(JobFlags(sys.argv[1], 2, int(sys.argv[2])))
config = override(Config(), ["mesh.expert=4", "runtime.platform=cpu"])
prepare_devices(config, job.num_processes)
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
mesh = build_mesh(config.mesh)
sharding = NamedSharding(mesh, PartitionSpec("expert"))
x = jax.make_array_from_callback((4,), sharding, lambda i: np.arange(4.0)[i])
total = jax.jit(lambda x: x.sum(), out_shardings=NamedSharding(mesh, PartitionSpec()))(x)
topology = find_topology("detect", list(mesh.devices.flat))
processes = [d.process_index for d in mesh.devices.flat]
print(json.dumps([float(total), processes, topology.hosts, topology.devices_per_host]))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_single_process_starts_nothing():
    assert start_distributed(environ={}) == SINGLE


@pytest.mark.slow
def test_two_processes_share_a_mesh():
    address = f"127.0.0.1:{free_port()}"
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("MOE_JAX_", "JAX_NUM_"))}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, address, str(i)],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        results = [worker.communicate(timeout=120) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    for worker, (out, err) in zip(workers, results, strict=True):
        assert worker.returncode == 0, err
        assert json.loads(out.splitlines()[-1]) == [6.0, [0, 0, 1, 1], 2, 2]


@pytest.mark.parametrize("address", ["127.0.0.1:4000", "127.0.0.2:4000", "localhost:4000"])
def test_loopback_coordinator_listens_on_loopback_only(address):
    assert bind_address(address).startswith(("127.0.0.", "[::1]"))
    assert bind_address(address).endswith(":4000")


def answer(*addresses):
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, 0)) for a in addresses]
    return lambda *args, **kwargs: found


def test_name_that_resolves_to_its_own_loopback_is_not_trapped_there(monkeypatch, caplog):
    # Debian's /etc/hosts: 127.0.1.1 <this host>. Listening there would lock the others out.
    monkeypatch.setattr(socket, "getaddrinfo", answer("127.0.1.1"))
    assert bind_address("node1:5000") in ("[::]:5000", "0.0.0.0:5000")
    assert "node1 is not an address of this host" in caplog.text


def test_address_of_another_host_is_not_bound(monkeypatch, caplog):
    monkeypatch.setattr(socket, "getaddrinfo", answer("192.0.2.1"))
    assert bind_address("service:5000") in ("[::]:5000", "0.0.0.0:5000")
    assert "listening on all interfaces" in caplog.text


@pytest.mark.parametrize(
    ("local", "local_id", "visible", "expected"),
    [
        (0, 0, EIGHT, None),
        (1, 0, EIGHT, None),
        (8, 3, EIGHT, [3]),
        (2, 1, EIGHT, [4, 5, 6, 7]),
        (8, 3, None, [3]),
        (8, 3, "3", None),
    ],
)
def test_processes_of_a_host_share_its_gpus(local, local_id, visible, expected):
    job = Job("slurm", "h:1", 16, 0, local, local_id)
    assert local_gpus(job, {"CUDA_VISIBLE_DEVICES": visible} if visible else {}) == expected


def test_gpus_that_cannot_be_shared_equally_are_refused():
    job = Job("slurm", "h:1", 16, 0, 3, 0)
    with pytest.raises(DistributedError, match=r"3 processes .* 8 visible GPUs .* 1 process per"):
        local_gpus(job, {"CUDA_VISIBLE_DEVICES": EIGHT})
