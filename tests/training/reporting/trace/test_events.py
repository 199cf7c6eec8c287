"""Kernels of a GPU's streams, and operations of a CPU's devices, from real and written profiles."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec
from support.profiles import KERNELS, write_profile

from moe_jax.errors import UserError
from moe_jax.training.reporting.trace.events import newest_profile, read_events
from moe_jax.training.reporting.trace.kernels import collective, kind_of


def test_kernels_of_all_streams_are_read_once(tmp_path):
    file = write_profile(tmp_path)
    assert newest_profile(tmp_path) == file
    events = read_events(file)
    assert list(events) == ["/device:GPU:0"]
    found = [(e.name, e.op, e.start_ns, e.end_ns) for e in events["/device:GPU:0"]]
    wanted = [(n, op, s * 1e3, (s + d) * 1e3) for _, n, op, s, d in KERNELS]
    assert sorted(found) == sorted(wanted)
    assert [start for _, _, start, _ in found] == sorted(start for _, _, start, _ in found)


def test_a_directory_without_a_profile_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match=r"train.profile_steps"):
        newest_profile(tmp_path)


def test_a_profile_of_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="no kernels of a device"):
        read_events(write_profile(tmp_path, kernels=()))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a CPU's own profile")
def test_a_real_profile_has_every_device_and_no_loops_around_what_is_inside(tmp_path):
    mesh = Mesh(jax.devices()[:2], ("x",), axis_types=(AxisType.Auto,))

    def layers(a):
        def layer(a, _):
            return jax.lax.psum(jnp.tanh(a @ a.T), "x") @ a, None

        return jax.lax.scan(layer, a, length=3)[0]

    spec = PartitionSpec("x")
    step = jax.jit(jax.shard_map(layers, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False))
    x = jax.block_until_ready(step(jnp.ones((128, 64))))
    with jax.profiler.trace(str(tmp_path)):
        jax.block_until_ready(step(x))
    events = read_events(newest_profile(tmp_path))
    assert list(events) == ["cpu:0", "cpu:1"]
    for found in events.values():
        assert sum(collective(event) == "all-reduce" for event in found) == 3
        assert sum(kind_of(event) == "matmul" for event in found) >= 3
        assert not any(event.op.startswith("while") for event in found)
