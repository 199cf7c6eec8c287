"""Links of GPU servers as data, from `clusters.toml`, by the name of their GPU.

How many servers there are is `topology.py`; what a chip can do `hardware/gpus.py`.
"""

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources

from moe_jax.hardware.gpus import read_rows


@dataclass(frozen=True)
class Cluster:
    """A kind of server and its network. Rates in bytes/s per device and direction."""

    name: str
    title: str
    #: Devices that share one NVLink switch.
    max_devices_per_host: int
    nvlink_bytes_per_s: float
    #: Line rate of a device's own network adapter.
    network_bytes_per_s: float
    nvlink_latency_s: float
    network_latency_s: float
    #: Field name -> citation.
    sources: Mapping[str, str] = field(hash=False)


def parse_clusters(text: str) -> dict[str, Cluster]:
    """Read TOML in the form of `clusters.toml`.

    Args:
        text: tables `[sources]` and `[clusters.NAME]` with `[clusters.NAME.sources]`.

    Returns:
        Name -> Cluster, in file order.

    Raises:
        UserError: for a field that is missing, unknown, without a source, or of a wrong type.
    """
    return read_rows(Cluster, "cluster", tomllib.loads(text), "clusters")


@functools.cache
def known_clusters() -> Mapping[str, Cluster]:
    """Name -> Cluster of the servers that come with the package."""
    text = resources.files("moe_jax.hardware").joinpath("clusters.toml").read_text(encoding="utf-8")
    return parse_clusters(text)
