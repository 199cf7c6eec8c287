"""Memory comes from the devices where they count it, otherwise from the process, and says so."""

from types import SimpleNamespace

import jax
import numpy as np

from moe_jax.training.reporting import device_memory
from moe_jax.training.reporting.device_memory import GIB, Memory, measure_memory


def test_fullest_device_counts():
    peaks = [{"peak_bytes_in_use": n * GIB} for n in (3, 5, 4)]
    devices = [SimpleNamespace(memory_stats=lambda found=found: found) for found in peaks]
    assert measure_memory(devices) == Memory(5.0, "device peak")


def test_emulated_devices_report_the_process():
    before = measure_memory(jax.local_devices())
    block = np.ones(2**26)  # 512 MiB
    after = measure_memory(jax.local_devices())
    assert before.kind == after.kind == "process"
    assert 0.45 < after.gib - before.gib < 0.75
    del block


def test_system_without_proc_reports_the_process_peak(monkeypatch, tmp_path):
    monkeypatch.setattr(device_memory, "_STATM", tmp_path / "absent")
    measured = measure_memory(jax.local_devices())
    assert measured.kind == "process peak"
    assert 0.05 < measured.gib < 100
