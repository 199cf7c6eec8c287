"""Collectives by themselves, on emulated devices."""

import jax
import pytest

from moe_jax.bench.operations import collectives
from moe_jax.bench.operations.collectives import collective_times, sizes_bytes
from moe_jax.config.schema import MeshConfig
from moe_jax.mesh.build import build_mesh
from moe_jax.sharding.rules import BATCH
from moe_jax.sharding.spmd import on_device_shards


@pytest.mark.slow
def test_every_kind_at_every_size(monkeypatch):
    monkeypatch.setattr(collectives, "_CALLS", 1)
    mesh = build_mesh(MeshConfig(expert=8))
    found = list(collective_times(mesh, 1, "cpu", (64, 1024), repeats=2))
    kinds = ("all-to-all", "all-gather", "all-reduce", "reduce-scatter")
    assert [(c.kind, c.bytes) for c in found] == [(k, size) for k in kinds for size in (64, 1024)]
    assert all(c.devices == 8 and c.hosts == 1 and c.seconds > 0 for c in found)


@pytest.mark.parametrize("kind", collectives._MOVES)
def test_what_is_timed_is_one_collective_of_its_kind(kind):
    mesh = build_mesh(MeshConfig(expert=8))
    move = on_device_shards(collectives._MOVES[kind], mesh, in_specs=BATCH, out_specs=BATCH)
    text = jax.jit(move).lower(collectives._operand(mesh, 64)).compile().as_text()
    found = {k for k in collectives._MOVES if f" {k}(" in text or f" {k}-start(" in text}
    assert found == {kind}


def test_an_operand_is_as_large_as_asked_on_each_device():
    x = collectives._operand(build_mesh(MeshConfig(expert=8)), 100)
    assert x.addressable_data(0).nbytes == 112


def test_one_device_has_nobody_to_talk_to():
    mesh = build_mesh(MeshConfig(), jax.devices()[:1])
    assert list(collective_times(mesh, 1, "cpu", (64,))) == []


def test_devices_off_the_expert_axis_are_refused():
    mesh = build_mesh(MeshConfig(data=2, expert=4))
    with pytest.raises(ValueError, match=r"expert axis \(4 devices\), but the mesh has 8"):
        list(collective_times(mesh, 1, "cpu", (64,)))


def test_sizes_reach_from_latency_to_a_whole_dispatch():
    assert sizes_bytes(2**26) == (2**16, 2**20, 2**23, 2**26)
