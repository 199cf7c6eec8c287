"""A user's own GPUs and clusters, from one TOML file, beside those that come with the package.

The file has the tables of `gpus.toml` (`[gpus.NAME]`) and of `hardware/clusters.toml`
(`[clusters.NAME]`), and one `[sources]` for both; a name that is known already replaces the known.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from moe_jax.errors import UserError
from moe_jax.hardware.clusters import Cluster, known_clusters, parse_clusters
from moe_jax.hardware.gpus import Gpu, known_gpus, parse_gpus
from moe_jax.planner.compile.target import Target

_TABLES = ("sources", "gpus", "clusters")


@dataclass(frozen=True)
class Hardware:
    """What can be planned for: GPUs, and the servers that hold them, by the GPU's name."""

    gpus: Mapping[str, Gpu]
    clusters: Mapping[str, Cluster]

    def target(self, gpu: str, hosts: int = 1, devices_per_host: int = 8) -> Target:
        """Return a cluster of `hosts` x `devices_per_host` GPUs.

        Args:
            gpu: name of the GPU, in any case.
            hosts: of the cluster.
            devices_per_host: of each; at most what its servers have.

        Raises:
            UserError: an unknown name, or more devices per host than its servers have.
        """
        name = next((n for n in self.gpus if n.lower() == gpu.lower()), None)
        if name is None:
            raise UserError(
                f"unknown GPU {gpu!r}: use one of {', '.join(self.gpus)}, or describe it in a file "
                "for --hardware"
            )
        return Target(self.gpus[name], hosts, devices_per_host, self.clusters[name])


def known_hardware() -> Hardware:
    """Return the GPUs and clusters that come with the package."""
    return Hardware(known_gpus(), known_clusters())


def load_hardware(path: str | Path) -> Hardware:
    """Read a user's file; what comes with the package stays, unless the file has its name.

    Raises:
        UserError: the file cannot be read or is not TOML; a table or field is missing, unknown,
            without a source or of a wrong type; a GPU has no cluster of its name, or a cluster no
            GPU.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        tables = tomllib.loads(text)
    except OSError as error:
        raise UserError(
            f"cannot read the hardware file {path}: {error.strerror}: pass a readable TOML file"
        ) from error
    # The last is what the parser raises at lists nested too deeply.
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"hardware file {path} is not TOML: {error}") from error
    if unknown := sorted(tables.keys() - set(_TABLES)):
        raise UserError(
            f"hardware file {path}: unknown tables {', '.join(unknown)}: use [gpus.NAME], "
            "[clusters.NAME] and [sources]"
        )
    try:
        gpus = {**known_gpus(), **parse_gpus(text)}
        clusters = {**known_clusters(), **parse_clusters(text)}
    except UserError as error:
        raise UserError(f"hardware file {path}: {error}") from error
    if alone := sorted(gpus.keys() ^ clusters.keys()):
        missing = [f"[{'clusters' if name in gpus else 'gpus'}.{name}]" for name in alone]
        raise UserError(
            f"hardware file {path}: a GPU and its servers share a name: add {', '.join(missing)}"
        )
    return Hardware(gpus, clusters)
