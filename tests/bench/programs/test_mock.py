"""What a process is told that is to believe in a cluster; running it takes a GPU."""

import os

import jax

from moe_jax.bench.programs.mock import pretend_devices


def test_other_devices_are_announced_and_flags_kept(monkeypatch):
    told = {}
    monkeypatch.setattr(jax.config, "update", told.__setitem__)
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=here")
    pretend_devices(16)
    assert told == {"jax_platforms": "cuda", "jax_mock_gpu_topology": "1x16x1"}
    flags = os.environ["XLA_FLAGS"].split()
    assert flags[0] == "--xla_dump_to=here"
    assert "--xla_gpu_collectives_implementation=loopback" in flags
