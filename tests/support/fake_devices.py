"""Devices of clusters that are not there, as `hardware/topology.py` sees them. No tests here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FakeDevice:
    id: int
    process_index: int
    slice_index: int = 0
    device_kind: str = "NVIDIA H100 80GB HBM3"
    platform: str = "gpu"


def fake(hosts, per_host, processes_per_host=1, **changes):
    per_process = per_host // processes_per_host
    return [
        FakeDevice(i, i // per_process, slice_index=i // per_host, **changes)
        for i in range(hosts * per_host)
    ]
