"""Which process of which job this is, read from flags and environment and nothing else.

Connecting to the other processes is `distributed.py`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from moe_jax.errors import UserError

Value = TypeVar("Value", str, int)

#: Last port of the range from which jobs without an explicit one derive theirs from their id.
LAST_PORT = 65535
PORTS = 4096


class DistributedError(UserError):
    """Flags or environment do not say which process of which job this is."""


@dataclass(frozen=True)
class JobFlags:
    """What the command line says; None is "not given"."""

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


NO_FLAGS = JobFlags()


@dataclass(frozen=True)
class Job:
    """This process's place in its job.

    Attributes:
        kind: who described the job.
        coordinator: "host:port" of process 0; empty for a single process.
        num_processes: processes of the job.
        process_id: this one, from 0.
        local_processes: processes on this host, or 0 where nobody says.
        local_id: this one among them, from 0.
    """

    kind: Literal["single", "explicit", "slurm", "openmpi", "kubernetes"]
    coordinator: str = ""
    num_processes: int = 1
    process_id: int = 0
    local_processes: int = 0
    local_id: int = 0


SINGLE = Job(kind="single")


def detect_job(environ: Mapping[str, str], flags: JobFlags = NO_FLAGS) -> Job:
    """Return this process's place in the job that `flags` or `environ` describe.

    Flags and their twins `MOE_JAX_COORDINATOR`, `MOE_JAX_NUM_PROCESSES`, `MOE_JAX_PROCESS_ID`
    come first; what they leave open is taken from Open MPI, a Slurm step or an indexed Kubernetes
    job. Open MPI comes before Slurm, whose variables describe mpirun's daemons.

    Args:
        environ: the environment of the process.
        flags: from the command line.

    Raises:
        DistributedError: the description is incomplete, contradicts itself or cannot be read.
    """
    given = JobFlags(
        _given("--coordinator", flags.coordinator, environ, "MOE_JAX_COORDINATOR", str),
        _given("--num-processes", flags.num_processes, environ, "MOE_JAX_NUM_PROCESSES", int),
        _given("--process-id", flags.process_id, environ, "MOE_JAX_PROCESS_ID", int),
    )
    if None not in vars(given).values():
        return _checked(Job(kind="explicit", **vars(given)))
    scheduled = _openmpi(environ) or _slurm(environ) or _kubernetes(environ)
    if scheduled is None and given in (NO_FLAGS, JobFlags(num_processes=1)):
        return SINGLE
    return _checked(_merge(given, scheduled))


def _merge(given: JobFlags, scheduled: Job | None) -> Job:
    if scheduled is None:
        missing = [name for name, value in vars(given).items() if value is None]
        flags = ", ".join("--" + name.replace("_", "-") for name in missing)
        twins = ", ".join("MOE_JAX_" + name.upper() for name in missing)
        raise DistributedError(
            f"the job's description lacks {flags}: pass them too (or set {twins}), or pass "
            "none of --coordinator, --num-processes and --process-id for a single process"
        )
    overrides = {name: value for name, value in vars(given).items() if value is not None}
    return replace(scheduled, **overrides)


def _checked(job: Job) -> Job:
    if not 0 <= job.process_id < job.num_processes:
        raise DistributedError(
            f"process id {job.process_id} of {job.num_processes} processes ({job.kind}): ids run "
            f"from 0 to {job.num_processes - 1}; set --process-id or --num-processes"
        )
    if job.num_processes == 1:
        return SINGLE
    if not re.fullmatch(r"(\[[0-9a-fA-F:.%\w]+\]|[^\s:\[\]]+):\d{1,5}", job.coordinator):
        raise DistributedError(
            f"the {job.kind} job gives {job.coordinator or 'no address'!r} for the coordinator: "
            "set --coordinator or MOE_JAX_COORDINATOR to HOST:PORT of process 0, the same on all "
            "processes (an IPv6 address in brackets)"
        )
    return job


def _given(
    flag: str,
    value: Value | None,
    environ: Mapping[str, str],
    name: str,
    read: Callable[[str], Value],
) -> Value | None:
    text = environ.get(name, "")
    if not text:
        return value
    try:
        from_environ = read(text)
    except ValueError as error:
        raise DistributedError(f"{name} = {text!r} must be a whole number") from error
    if value is not None and value != from_environ:
        raise DistributedError(
            f"{flag} {value} contradicts {name}={text}: pass the flag or set the variable, not both"
        )
    return from_environ


def _number(environ: Mapping[str, str], name: str, default: str | None = None) -> int:
    text = environ.get(name, default)
    if text is None or not re.fullmatch(r"\d+", text):
        state = "is missing" if text is None else f"= {text!r} is not a whole number"
        raise DistributedError(
            f"{name} {state}: set MOE_JAX_COORDINATOR, MOE_JAX_NUM_PROCESSES and "
            "MOE_JAX_PROCESS_ID to describe the job yourself"
        )
    return int(text)


def _openmpi(environ: Mapping[str, str]) -> Job | None:
    if "OMPI_COMM_WORLD_SIZE" not in environ:
        return None
    # Open MPI 4 tells where mpirun listens: 4096.0;tcp://10.0.0.1,10.1.0.1:40000. Process 0 runs
    # there unless the host list says otherwise. Open MPI 5 does not tell.
    uri = re.match(
        r"(\d+)\.\d+;(?:tcp://([^,:]+)|tcp6://\[([^,\]]+))",
        environ.get("OMPI_MCA_orte_hnp_uri", ""),
    )
    host = (uri[2] or f"[{uri[3]}]") if uri else ""
    return Job(
        kind="openmpi",
        # Job ids are multiples of 4096.
        coordinator=f"{host}:{_port(int(uri[1]) // PORTS)}" if uri else "",
        num_processes=_number(environ, "OMPI_COMM_WORLD_SIZE"),
        process_id=_number(environ, "OMPI_COMM_WORLD_RANK"),
        local_processes=_number(environ, "OMPI_COMM_WORLD_LOCAL_SIZE"),
        local_id=_number(environ, "OMPI_COMM_WORLD_LOCAL_RANK"),
    )


def _slurm(environ: Mapping[str, str]) -> Job | None:
    # Without a step this is the batch script itself or a login shell: one process.
    if "SLURM_STEP_NODELIST" not in environ or "SLURM_PROCID" not in environ:
        return None
    # "node[007-009],other" starts with node007.
    nodes = environ["SLURM_STEP_NODELIST"]
    first = re.match(r"([^,\[]+)(?:\[(\w+))?", nodes)
    host = "".join(part or "" for part in first.groups()) if first else ""
    counts = _tasks_per_node(environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    node = _number(environ, "SLURM_NODEID", "0")
    tasks = environ.get("SLURM_STEP_NUM_TASKS", environ.get("SLURM_NTASKS"))
    return Job(
        kind="slurm",
        coordinator=f"{host}:{_port(_number(environ, 'SLURM_JOB_ID'))}",
        num_processes=_number({"SLURM_NTASKS": tasks} if tasks else {}, "SLURM_NTASKS"),
        process_id=_number(environ, "SLURM_PROCID"),
        local_processes=counts[node] if node < len(counts) else 0,
        local_id=_number(environ, "SLURM_LOCALID", "0"),
    )


def _tasks_per_node(text: str) -> list[int]:
    """Expand Slurm's "8(x2),1" to [8, 8, 1]."""
    runs = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(count) for count, times in runs for _ in range(int(times or 1))]


def _kubernetes(environ: Mapping[str, str]) -> Job | None:
    if "JOB_COMPLETION_INDEX" not in environ:
        return None
    index = _number(environ, "JOB_COMPLETION_INDEX")
    if "MOE_JAX_NUM_PROCESSES" not in environ:
        # Index 0 alone cannot be told from a job of one pod; every other one is a mistake.
        if index == 0:
            return None
        raise DistributedError(
            f"this is pod {index} of an indexed Kubernetes job that does not say how many there "
            "are: set MOE_JAX_NUM_PROCESSES and MOE_JAX_COORDINATOR as launch/k8s-jobset.yaml does"
        )
    return Job(
        kind="kubernetes",
        num_processes=_number(environ, "MOE_JAX_NUM_PROCESSES"),
        process_id=index,
        local_processes=1,
    )


def _port(job_id: int) -> int:
    return LAST_PORT - PORTS + 1 + job_id % PORTS
