"""What is installed, connected and possible on this machine, as tables; and whether a config runs.

When which of them shows is `verb.py`; what a config amounts to is `facts.py`.
"""

import os
import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

import jax
from rich.table import Table

from moe_jax.cli.shared.tables import binary, headed_table, key_value_table
from moe_jax.config import Config
from moe_jax.errors import UserError
from moe_jax.hardware.topology import Topology, TopologyError, detect_topology, host_keys
from moe_jax.mesh.build import order_devices
from moe_jax.mesh.distributed import Job
from moe_jax.mesh.platform import count_gpus, prepare_devices
from moe_jax.planner.compile.jobs import PlanExtraMissing, require_plan_extra
from moe_jax.session import Session, make_session

PACKAGES = ("moe-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
#: What users install for more than training; `plan` has its own check.
EXTRAS = ("hf", "serve", "parquet", "track", "plot", "notebook")
#: A requirement of an extra in the metadata: `moe-jax[hf]; extra == "serve"`, `jinja2>=3; ...`.
_REQUIREMENT = re.compile(
    r"(?P<package>[\w.-]+)(\[(?P<extras>[\w.,-]+)\])?.*;.*\bextra == [\"'](?P<extra>[\w.-]+)[\"']"
)


@dataclass(frozen=True)
class Verdict:
    """Whether a config runs on this job's devices: a session, or the reason why not."""

    session: Session | None
    reason: str


def versions_table() -> Table:
    """Return versions of Python and of the packages a run depends on."""
    table = key_value_table("Versions")
    table.add_row("python", platform.python_version())
    for package in PACKAGES:
        table.add_row(package, version(package))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    system = f"{platform.system()} {platform.machine()}"
    table.add_row("system", f"{system}, {os.cpu_count()} CPU cores, {binary(memory)} memory")
    return table


def devices_table(devices: Sequence[Any]) -> Table:
    """Return the job's devices, one row per host, in mesh order."""
    table = headed_table("Devices", "host", "devices", "ids", "processes")
    keys = dict(zip(devices, host_keys(devices), strict=True))
    by_host: dict[Any, list[Any]] = {}
    for device in order_devices(devices):
        by_host.setdefault(keys[device], []).append(device)
    for host, members in enumerate(by_host.values()):
        kinds = sorted({device.device_kind for device in members})
        ids = ", ".join(str(device.id) for device in members)
        processes = ", ".join(str(p) for p in sorted({d.process_index for d in members}))
        table.add_row(str(host), f"{len(members)} x {' and '.join(kinds)}", ids, processes)
    return table


def links_table(where: Topology | Sequence[Any]) -> Table:
    """Return what is known of the links of a topology, or of that which devices make up."""
    table = key_value_table("Links")
    try:
        topology = where if isinstance(where, Topology) else detect_topology(where)
    except TopologyError as error:
        table.add_row("unknown", str(error))
        return table
    for name, value in _links(topology):
        table.add_row(name, value)
    return table


def works_table(job: Job) -> Table:
    """Return what can be done here, and what is missing for the rest."""
    table = key_value_table("What works here")
    gpus = count_gpus()
    cuda = "no NVIDIA GPU that JAX can use (driver, CUDA_VISIBLE_DEVICES, moe-jax[cuda12])"
    table.add_row("training on GPUs", f"yes: {gpus} seen by this process" if gpus else cuda)
    table.add_row("emulated devices", "yes: as many as a config's mesh has, on the CPU")
    processes = "no job found: one process"
    if job.num_processes > 1:
        processes = f"yes: process {job.process_id} of {job.num_processes} ({job.kind})"
    table.add_row("several processes", processes)
    table.add_row("compiling for absent GPUs", _plan_extra())
    for extra in EXTRAS:
        versions = {package: _version(package) for package in extra_packages(extra)}
        missing = [package for package, its in versions.items() if its is None]
        install = f"missing {', '.join(missing)}: pip install 'moe-jax[{extra}]'"
        there = ", ".join(f"{package} {its}" for package, its in versions.items())
        table.add_row(f"extra {extra}", install if missing else f"yes: {there}")
    return table


def extra_packages(extra: str) -> tuple[str, ...]:
    """Return what an extra of this package installs, by the package's own metadata.

    Args:
        extra: its name, such as "serve"; the extras that it includes are resolved.

    Raises:
        UserError: the metadata has no such extra: it is older than the code.
    """
    packages: list[str] = []
    for stated in map(_REQUIREMENT.fullmatch, requires("moe-jax") or ()):
        if stated is None or stated["extra"] != extra:
            continue
        # One of our own extras stands for what it has.
        included = stated["extras"].split(",") if stated["package"] == "moe-jax" else ()
        packages += [p for one in included for p in extra_packages(one)] or [stated["package"]]
    if not packages:
        raise UserError(f"the installed moe-jax has no extra {extra}: install it again")
    return tuple(dict.fromkeys(packages))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def judge(config: Config | None, job: Job) -> Verdict:
    """Start JAX the way `train` would; without a config, or where that fails, as it comes.

    Args:
        config: what would run; None for nothing in particular.
        job: of this process.
    """
    reason = ""
    if config is not None:
        try:
            where = prepare_devices(config, job.num_processes)
            return Verdict(make_session(config, where), "")
        except UserError as error:
            reason = str(error)
    if count_gpus() == 0:
        # JAX would try the plugin of the plan extra first, and complain.
        jax.config.update("jax_platforms", "cpu")
    return Verdict(None, reason)


def verdict_line(verdict: Verdict) -> str:
    """Return whether a config runs here, and how or why not."""
    if verdict.session is None:
        return f"Runs here: no. {verdict.reason}"
    session = verdict.session
    parallel = session.parallel
    emulated = ", emulated" if session.platform == "cpu" else ""
    return (
        f"Runs here: yes, on {session.mesh.size} {session.platform} devices{emulated} "
        f"(exchange {parallel.exchange_spec.transport.name}, attention {parallel.attention})"
    )


def _links(topology: Topology) -> Iterator[tuple[str, str]]:
    shape = f"{topology.hosts} x {topology.devices_per_host} {topology.device_kind}"
    yield "hosts", f"{shape} ({topology.name})"
    for name, scale, unit in (
        ("nvlink_bytes_per_s", 1e-9, "GB/s per device and direction"),
        ("network_bytes_per_s", 1e-9, "GB/s per device and direction"),
        ("nvlink_latency_s", 1e6, "µs"),
        ("network_latency_s", 1e6, "µs"),
        ("memory_bytes", 2**-30, "GiB per device"),
    ):
        title = name.removesuffix("_bytes_per_s").removesuffix("_s").removesuffix("_bytes")
        known = name not in topology.unknown
        value = f"{getattr(topology, name) * scale:.4g} {unit}" if known else "unknown"
        yield title.replace("_", " "), value


def _plan_extra() -> str:
    try:
        require_plan_extra()
    except PlanExtraMissing as error:
        return str(error)
    return "yes: the plan extra is installed"
