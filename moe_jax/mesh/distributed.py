"""Connect this process to the others of its job.

Who they are is found out in `jobs.py`; platforms and device counts are `platform.py`.
"""

import ipaddress
import logging
import os
import socket
from collections.abc import Mapping

import jax

from moe_jax.mesh.jobs import NO_FLAGS, DistributedError, Job, JobFlags, detect_job

__all__ = ["DistributedError", "Job", "JobFlags", "bind_address", "local_gpus", "start_distributed"]

log = logging.getLogger(__name__)


def local_gpus(job: Job, environ: Mapping[str, str]) -> list[int] | None:
    """Return the GPUs that this process drives, as positions in what it sees; None is all.

    One process per host takes them all. Several share them equally, unless the scheduler has
    already narrowed `CUDA_VISIBLE_DEVICES` to one.

    Args:
        job: this process's place among the others.
        environ: the environment, of which `CUDA_VISIBLE_DEVICES` is read.

    Raises:
        DistributedError: the visible GPUs cannot be shared equally.
    """
    visible = [gpu for gpu in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    if job.local_processes <= 1 or len(visible) == 1:
        return None
    share, rest = divmod(len(visible) or job.local_processes, job.local_processes)
    if rest or not share:
        raise DistributedError(
            f"{job.local_processes} processes on this host cannot share its {len(visible)} "
            f"visible GPUs equally (CUDA_VISIBLE_DEVICES={','.join(visible)}): start 1 process "
            "per host or 1 per GPU"
        )
    return list(range(job.local_id * share, (job.local_id + 1) * share))


def start_distributed(flags: JobFlags = NO_FLAGS, environ: Mapping[str, str] | None = None) -> Job:
    """Connect this process to its job; call before anything that touches JAX's devices.

    Args:
        flags: from the command line.
        environ: the environment; None is this process's own.

    Returns:
        The job. For a single process nothing is started.

    Raises:
        DistributedError: see `detect_job` and `local_gpus`.
        RuntimeError: from JAX: the devices are in use already, or the others did not come.
    """
    environ = os.environ if environ is None else environ
    job = detect_job(environ, flags)
    if job.num_processes == 1 or jax.distributed.is_initialized():
        return job
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        coordinator_address=job.coordinator,
        num_processes=job.num_processes,
        process_id=job.process_id,
        local_device_ids=local_gpus(job, environ),
        # JAX's own detection gives every Slurm and MPI task the one GPU of its local rank, also
        # where one task per host is to drive all of them.
        cluster_detection_method="deactivate",
        coordinator_bind_address=bind_address(job.coordinator) if job.process_id == 0 else None,
    )
    log.info("process %d of %d (%s)", job.process_id, job.num_processes, job.kind)
    return job


def bind_address(coordinator: str) -> str:
    """Return the address on which process 0 listens: the coordinator's own, not every interface.

    A name that this host resolves to something the others cannot reach (its own loopback entry in
    /etc/hosts, a service's virtual address) leaves no choice but all interfaces: that is logged.

    Args:
        coordinator: HOST:PORT by which the others find process 0; an IPv6 address in brackets.

    Returns:
        ADDRESS:PORT.
    """
    host, _, port = coordinator.rpartition(":")
    host = host.strip("[]")
    address = _own_address(host)
    if address is None:
        log.warning(
            "%s is not an address of this host that others can reach: listening on all "
            "interfaces; set --coordinator to the address of one to narrow it down",
            host,
        )
        address = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _own_address(host: str) -> str | None:
    try:
        addresses = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except OSError:
        return None
    for family, kind, _, _, where in addresses:
        address = str(where[0])
        if ipaddress.ip_address(address).is_loopback and host not in ("localhost", address):
            continue
        with socket.socket(family, kind) as probe:
            try:
                probe.bind((address, 0))
            except OSError:
                continue
        return address
    return None
