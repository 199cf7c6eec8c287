"""How much a program may take: of a device what JAX may, of a host its part of half."""

import os
from types import SimpleNamespace

import jax

from moe_jax.training.memory_limit import RESERVE, memory_limit, usable
from moe_jax.training.reporting.device_memory import GIB


def device(bytes_limit):
    stats = None if bytes_limit is None else {"bytes_limit": bytes_limit}
    return SimpleNamespace(memory_stats=lambda: stats)


def test_the_smallest_device_counts():
    limit = memory_limit([device(73 * GIB), device(70 * GIB)])
    assert limit.bytes == usable(70 * GIB)
    assert "70.0 GiB that JAX may take" in limit.text


def test_a_program_that_once_ran_out_of_memory_is_too_large():
    assert 0 < RESERVE < 0.1
    assert 55 * GIB < usable(59 * GIB) < 56 * GIB


def test_emulated_devices_share_half_their_host():
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = memory_limit(jax.local_devices())
    assert limit.bytes == usable(host / 2 / 8)
    assert "8 emulated devices" in limit.text
